"""README's examples, run as they stand there."""

import re
import subprocess
import sys
from pathlib import Path

from lote_cluster import Endpoints

README = Path(__file__).parents[2] / "README.md"


def test_the_example_in_the_readme(sdk, cluster, tmp_path):
    generation = sdk.name.removeprefix("py")
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    (example,) = [block for block in blocks if block.startswith(f"# azure-batch {generation}\n")]
    (id,) = set(re.findall(r"hello-\d+", example))
    # The environment comes from lote.env and from nothing else.
    variables = {name: getattr(cluster.endpoints, field) for field, name in Endpoints.NAMES.items()}
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", example],
            env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "".join(f"hello {n}\n" for n in range(5))
    finally:
        for delete in (sdk.delete_job, sdk.delete_pool):
            try:
                delete(id)
            except sdk.errors:
                pass  # the example did not get that far

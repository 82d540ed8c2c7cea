"""The documented workflow, from upload to clean-up, the way a program for the cloud does it."""

from jobs import ready_nodes
from lote_cluster import wait_for
from sdk import Output

TASKS = 100


def test_the_documented_workflow(sdk, blobs, unique):
    with blobs.new_container(unique("in")) as inputs, blobs.new_container(unique("out")) as outputs:
        # Inputs: one file per task and one that all share.
        expected = {}
        inputs.put("words.txt", "".join(f"word{n}\n" for n in range(1000)))
        for n in range(TASKS):
            inputs.put(f"numbers/{n}.txt", "".join(f"{n * 1000 + k}\n" for k in range(50)))
            expected[f"task{n:03}"] = sum(n * 1000 + k for k in range(50))

        pool, job = unique("pool"), unique("job")
        sdk.create_pool(sdk.pool(pool, nodes=2, slots=2))
        sdk.create_job(sdk.job(job, pool))

        # The tasks may be added before there is a single node.
        script = (
            "s=0; while read n; do s=$((s+n)); done < number.txt; "
            "echo $AZ_BATCH_TASK_ID $s; mkdir result; echo $s > result/sum.txt; wc -l < words.txt > result/words.txt"
        )
        shared = sdk.resource_file(http_url=inputs.blob_url("words.txt"), file_path="words.txt")
        tasks = [
            sdk.task(
                f"task{n:03}",
                f"/bin/sh -c '{script}'",
                resource_files=[
                    shared,
                    sdk.resource_file(http_url=inputs.blob_url(f"numbers/{n}.txt"), file_path="number.txt"),
                ],
                outputs=[
                    Output("result/*.txt", outputs.url("w"), f"task{n:03}", "tasksuccess"),
                    Output("../std*.txt", outputs.url("w"), f"logs/task{n:03}", "taskcompletion"),
                ],
            )
            for n in range(TASKS)
        ]
        results = sdk.create_tasks(job, tasks)
        assert sorted(result.task_id for result in results) == sorted(expected)
        assert {result.status for result in results} == {"success"}
        assert all(result.location and sdk.etag(result) for result in results)

        def finished():
            found = sdk.list_tasks(job)
            assert len(found) == TASKS
            return found if all(task.state == "completed" for task in found) else None

        found = wait_for("the end of all tasks", finished, timeout=120, interval=0.5)
        failed = {task.id: task.execution_info.failure_info.code for task in found if task.execution_info.failure_info}
        assert not failed, failed
        assert {task.execution_info.exit_code for task in found} == {0}
        counts = sdk.task_counts(job).task_counts
        assert (counts.active, counts.running, counts.completed) == (0, 0, TASKS)
        assert (counts.succeeded, counts.failed) == (TASKS, 0)

        # Both nodes worked.
        nodes = {node.id for node in ready_nodes(sdk, pool, 2)}
        assert {task.node_info.node_id for task in found} == nodes

        # What each task printed, and what it left in storage.
        for id, total in expected.items():
            assert sdk.read_task_file(job, id, "stdout.txt") == f"{id} {total}\n".encode()
            assert sdk.read_task_file(job, id, "wd/result/sum.txt") == f"{total}\n".encode()
        stored = {}
        for id in expected:
            stored[f"{id}/sum.txt"] = f"{expected[id]}\n".encode()
            stored[f"{id}/words.txt"] = b"1000\n"
            stored[f"logs/{id}/stdout.txt"] = f"{id} {expected[id]}\n".encode()
            stored[f"logs/{id}/stderr.txt"] = b""
        assert outputs.contents() == stored

        # Clean-up: everything reads 404 in the end.
        sdk.delete_job(job, wait=True)
        wait_for("the deletion of the job", lambda: sdk.is_gone(lambda: sdk.get_job(job)))
        with sdk.refused(404, "JobNotFound"):
            sdk.get_task(job, "task000")
        sdk.delete_pool(pool, wait=True)
        wait_for("the deletion of the pool", lambda: sdk.is_gone(lambda: sdk.get_pool(pool)))
        assert not sdk.pool_exists(pool)
    names = [container.name for container in blobs.service.list_containers()]
    assert inputs.name not in names and outputs.name not in names

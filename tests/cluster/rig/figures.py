"""What a run has to tell beside passed and failed: shown in the summary of pytest, which hides what passing tests print."""

told: list[str] = []


def tell(text: str) -> None:
    print(text)
    told.append(text)

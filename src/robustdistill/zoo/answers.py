"""What a server may answer instead of a file, each as a sentence that begins with its address."""

import urllib.error

from robustdistill.errors import DamagedFile, RobustDistillError, UserError

AGAIN = {408, 425, 429, 500, 502, 503, 504}  # answers that may be another one a moment later
GOOGLE = ("https://drive.google.com/", "https://drive.usercontent.google.com/")


class TryAgain(Exception):
    """What went wrong may go right a moment later: `failure` is raised if it does not; `wait` seconds are asked for."""

    def __init__(self, failure: RobustDistillError, wait: float = 0) -> None:
        super().__init__(str(failure))
        self.failure, self.wait = failure, wait


def refused(url: str, error: urllib.error.HTTPError) -> Exception:
    """The error for an answer that is no success."""
    code, drive = error.code, url.startswith(GOOGLE)
    quota = ", with Google Drive usually because too many people fetched the file lately" if drive else ""
    match code:
        case 404 | 410:
            why = "the file is not there (any more)"
        case 401 | 403:
            why = f"the server lets nobody fetch the file{quota}"
        case 429:
            why = f"too many requests just now{quota}"
        case 500 | 502 | 503 | 504:
            why = "the server does not work just now"
        case _:
            why = f"the server does not give the file ({error.reason})"
    failure = UserError(f"{url} answers {code}: {why}")
    return TryAgain(failure, _seconds(error.headers.get("Retry-After"))) if code in AGAIN else failure


def _seconds(text: str | None) -> float:
    return float(text) if text and text.isdigit() else 0


def unreachable(url: str, error: Exception) -> TryAgain:
    """The error for a server that cannot be reached, or falls silent."""
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError):
        return TryAgain(UserError(f"{url} does not answer: it was silent for too long"))
    why = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return TryAgain(UserError(f"{url} cannot be reached: {why}"))


def broken_off(url: str, came: int, total: int) -> TryAgain:
    """The error for a file of which less came than there is."""
    sizes = f"{came:,} of {total:,} bytes came" if total else f"{came:,} bytes came"
    return TryAgain(UserError(f"{url} breaks off: {sizes}; the next run goes on from there"))


def web_page(url: str, head: bytes) -> DamagedFile:
    """The error for a web page, of which `head` is the beginning, in the place of a file."""
    text = head.lower()
    if b"quota" in text or b"too many users" in text:
        why = "its quota page: too many people fetched the file lately, and it may be had again in a day"
    elif b"virus" in text:
        why = "its warning that the file was not searched for viruses, which only a click in a browser passes"
    elif b"sign in" in text or b"log in" in text or b"login" in text:
        why = "a page to log in"
    else:
        why = "a web page"
    return DamagedFile(f"{url} gives no weights but {why}")

"""What the hub makes of what a job's starter says, which is its user's word, and of a connection that breaks."""

import asyncio

import pytest

from debianized_jupyterhub import job_link


def said(data=b"", error=None, seconds=None):
    """Return what `said` makes of a connection on which `data` (bytes) came, then `error` (Exception) or the end."""

    async def listen():
        reader = asyncio.StreamReader(limit=job_link.LONGEST)
        reader.feed_data(data)
        if error:
            reader.set_exception(error)
        elif data:
            reader.feed_eof()
        return await job_link.said(reader, seconds)

    return asyncio.run(listen())


@pytest.mark.parametrize(
    "error",
    [TimeoutError(110, "Connection timed out"), OSError(113, "No route to host"), ConnectionResetError(104, "Connection reset by peer")],
)
@pytest.mark.parametrize("seconds", [None, 10])
def test_connection_that_breaks_is_an_end(error, seconds):
    """Also where the machine has vanished, of which the kernel tells after a minute: the hub goes on looking after the job."""
    assert said(error=error, seconds=seconds) == {}


def test_silence_is_told():
    with pytest.raises(OSError, match="does not answer within"):
        said(seconds=0.01)


@pytest.mark.parametrize("data", [b"[" * 100_000 + b"\n", b"[]\n", b'"ended"\n', b"nonsense\n", b"\xff\n", b"x" * (3 * job_link.LONGEST) + b"\n"])
def test_nonsense_is_nothing(data):
    assert said(data) == {}

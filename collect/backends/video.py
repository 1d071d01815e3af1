"""Video files in and out: H.264 in mp4, near-lossless. F frames, H x W pixels, RGB, 8 bits."""

import os
import subprocess
import wave
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

Video = NDArray[np.uint8]
Measured = TypeVar("Measured")

CRF = 8  # of 51, lower is better: the loss stays below that of the change to YUV, 1.3 levels of 255 on average


@dataclass(frozen=True)
class Sound:
    """What a video sounds like.

    Args:
        samples: ``(samples, channels)`` in [-1, 1].
        rate: samples a second.
    """

    samples: NDArray[np.float32]
    rate: int


def write_video(path: Path, video: Video, fps: int = 8, enlarge: int = 1, sound: Sound | None = None) -> None:
    """Write a video so that ``path`` either holds all of it or does not exist.

    Args:
        path: the mp4 file; its folder is made where missing.
        video: ``(F, H, W, 3)``.
        fps: frames per second.
        enlarge: draw each pixel as a square of this side, so that halved colour resolution (yuv420p) is harmless
            to tiny videos and people can see something.
        sound: what is heard, as long as it and the frames last.

    Raises:
        ValueError: if the array is no colour video of 8 bits, or an enlarged side is odd, which yuv420p excludes.
        OSError: if the encoder fails, for instance on a full disk.
    """
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3 or not len(video):
        raise ValueError(f"a video must be uint8 of shape (frames, height, width, 3), got {video.dtype} {video.shape}.")
    height, width = video.shape[1] * enlarge, video.shape[2] * enlarge
    if height % 2 or width % 2:
        raise ValueError(f"height and width times enlarge must be even, got {height} x {width}; set enlarge to 2.")
    frames = video.repeat(enlarge, axis=1).repeat(enlarge, axis=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial.mp4")
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-"]
    heard = path.with_name(f".{path.stem}.partial.wav")
    if sound is not None:
        write_sound(heard, sound)
        source += ["-i", str(heard), "-c:a", "aac", "-b:a", "192k", "-shortest"]
    encoding = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", str(CRF), "-preset", "veryfast"]
    same_bytes = ["-threads", "1", "-fflags", "+bitexact"]  # the same frames always give the same file
    target = str(partial.absolute())  # a name with a colon is no protocol then
    # imageio's own writer polls for the encoder's end, which doubles the time of a short video.
    encoder = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *source, *encoding, *same_bytes, target],
        input=frames.tobytes(),
        capture_output=True,
        check=False,
    )
    heard.unlink(missing_ok=True)
    if encoder.returncode:
        raise OSError(f"cannot write {path}: {encoder.stderr.decode(errors='replace').strip()}")
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def write_sound(path: Path, sound: Sound) -> None:
    """Write sound as a WAV file of 16 bits."""
    levels = (sound.samples.clip(-1, 1) * 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(levels.shape[1])
        file.setsampwidth(2)
        file.setframerate(sound.rate)
        file.writeframes(levels.tobytes())


def read_video(path: Path) -> Video:
    """Read every frame of a video, ``(F, H, W, 3)``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is no readable video, for instance because it was cut short.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a video file.")
    reader = cv2.VideoCapture(str(path.absolute()))  # a name with a colon is no protocol then
    frames = []
    while True:
        read, frame = reader.read()
        if not read:
            break
        frames.append(frame[..., ::-1])  # OpenCV gives BGR
    reader.release()
    if not frames:
        raise ValueError(f"{path} is not a readable video; was it cut short? Render it again.")
    return np.stack(frames).astype(np.uint8, copy=False)


def video_fps(path: Path) -> float:
    """Read how many frames a second a video plays.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is no readable video.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a video file.")
    reader = cv2.VideoCapture(str(path.absolute()))  # a name with a colon is no protocol then
    fps = float(reader.get(cv2.CAP_PROP_FPS))
    reader.release()
    if fps <= 0:
        raise ValueError(f"{path} is not a readable video; was it cut short? Render it again.")
    return fps


def measure_each(measure: Callable[[Video, float], Measured], paths: Sequence[Path]) -> list[Measured]:
    """Read and measure several videos at a time; OpenCV works outside the interpreter's lock.

    Args:
        measure: gets frames ``(F, H, W, 3)`` and frames per second; called from several threads.
        paths: the videos.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file, if it is no readable video or ``measure`` refuses it.
    """

    def measured(path: Path) -> Measured:
        try:
            return measure(read_video(path), video_fps(path))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    with ThreadPoolExecutor() as pool:
        return list(pool.map(measured, paths))

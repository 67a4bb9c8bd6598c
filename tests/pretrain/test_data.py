"""From frame store to batch: the right bytes, the same whoever reads them, and errors that say which frame it was."""

from __future__ import annotations

import io
import os
import random
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pictures
import pytest
import simplejpeg
import torch
from PIL import Image
from torchvision.transforms.functional import normalize, to_tensor

from components.common.clip_index import write_index
from components.common.errors import ExitCode, StageError
from components.common.frame_store import FrameStore, shard_name
from components.common.frame_store_writer import Frame, FrameStoreWriter, VideoRow
from components.pretrain.data import Batch, ClipDataset, decode, to_device
from components.pretrain.geometry import Box, cut
from components.pretrain.loader import Loader, make_loader
from components.pretrain.plan import BlockMasks, ClipCrop, Crop, Photometric, ViewPlan
from components.pretrain.sampler import VIEW_STREAM, EpochSampler, Key
from components.pretrain.views import make_views
from tests.worker import in_a_worker

CPU = torch.device("cpu")
Folders = tuple[Path, Path]
PAIR = ViewPlan(
    "pair",
    2,
    (
        Crop("global", 32, (0.4, 1.0), (Photometric(), Photometric(solarise_p=0.5)), frames=(0, 1)),
        Crop("local", 16, (0.1, 0.4), (Photometric(),) * 3),
    ),
)
PLAIN = ViewPlan("frame", 1, (Crop("global", 48, (0.6, 1.0), (Photometric(0, 0, 0, 0, 0, 0, 0),)),))


def write(folder: Path, videos: list[list[bytes]], size_of: dict[int, tuple[int, int]] | None = None) -> Folders:
    """A store of JPEGs and its index with the draws `frame` and `pair`; `size_of` gives rows another size than true."""
    store, index = folder / "frames", folder / "index"
    with FrameStoreWriter(store) as writer:
        for number, jpegs in enumerate(videos):
            film = [Frame(jpeg, i / 4, i) for i, jpeg in enumerate(jpegs)]
            writer.add(VideoRow(f"take{number}", f"take{number}.mp4"), film)
    table = FrameStore(store).frames
    names = ("video", "pts_s", "shard", "offset", "size", "height", "width")
    columns = {name: table[name].to_numpy().copy() for name in names}
    for row, (height, width) in (size_of or {}).items():
        columns["height"][row], columns["width"][row] = height, width
    columns |= {"segment": columns["video"], "split": np.zeros(table.num_rows, np.int8)}
    frame = np.arange(table.num_rows)[:, None]
    pair = np.concatenate([frame[:-1], frame[1:]], axis=1)
    same = columns["video"][pair[:, 0]] == columns["video"][pair[:, 1]]
    write_index(
        index, columns, {"frame": frame, "pair": pair[same]}, extra={"frame_store": FrameStore(store).fingerprint}
    )
    return store, index


def jpegs(count: int, height: int, width: int) -> list[bytes]:
    return [simplejpeg.encode_jpeg(image, quality=92) for image in pictures.drawn(count, height, width)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return write(tmp_path_factory.mktemp("data"), [jpegs(4, 72, 96), jpegs(3, 90, 60)])


def equal(one: Batch, two: Batch) -> bool:
    same = torch.equal(one.samples, two.samples)
    for a, b in zip(one[:3], two[:3], strict=True):  # views, geometry, masks
        same &= a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    return same


def test_a_sample_is_its_frames_decoded_and_cut_with_its_own_generator(folders: Folders) -> None:
    """An independent rendition: frames found by name in the tar, decoded by Pillow."""
    dataset = ClipDataset(*folders, PAIR, seed=5, decode_scaled=False)
    sample = dataset[Key(2, 3)]  # second video's first pair: the first has four frames, three pairs
    with tarfile.open(folders[0] / shard_name(0)) as tar:
        files = [tar.extractfile(f"take1/{number:08d}.jpg") for number in (0, 1)]
        frames = [np.asarray(Image.open(io.BytesIO(file.read()))) for file in files if file]
    views, geometry = make_views(frames, PAIR, np.random.default_rng((VIEW_STREAM, 5, 2, 3)))
    for name in ("global", "local"):
        assert sample.views[name].dtype == torch.uint8 and sample.views[name].is_contiguous()
        apart = sample.views[name].numpy().astype(int) - views[name]
        assert np.abs(apart).mean() < 0.5  # two JPEG decoders
        assert np.array_equal(sample.geometry[name].numpy(), geometry[name])
    assert int(sample.samples) == 3


def test_views_depend_on_seed_epoch_and_sample_alone(folders: Folders) -> None:
    dataset = ClipDataset(*folders, PAIR, seed=5)
    np.random.seed(1)
    random.seed(1)
    first = dataset[Key(0, 1)]
    np.random.seed(2)
    dataset[Key(0, 2)]
    assert equal(first, dataset[Key(0, 1)])
    assert equal(first, in_a_worker(dataset)[Key(0, 1)])
    others = [dataset[Key(1, 1)], dataset[Key(0, 2)], ClipDataset(*folders, PAIR, seed=6)[Key(0, 1)]]
    assert not any(torch.equal(first.geometry["global"], other.geometry["global"]) for other in others)


def test_batches_are_their_samples_in_the_samplers_order(folders: Folders) -> None:
    dataset = ClipDataset(*folders, PAIR, seed=5)
    sampler = EpochSampler(len(dataset), 2, 5, steps=5)
    batches = list(make_loader(dataset, sampler, workers=0, device=CPU))
    assert len(batches) == 5
    for keys, batch in zip(sampler, batches, strict=True):
        assert batch.views["global"].shape == (2, 2, 2, 32, 32, 3)
        assert batch.views["local"].shape == (2, 3, 1, 16, 16, 3)
        assert batch.geometry["global"].shape == (2, 2, 2, 5)
        for b, key in enumerate(keys):
            one = dataset[key]
            assert all(torch.equal(batch.views[name][b], one.views[name]) for name in one.views)
            assert int(batch.samples[b]) == key[1]


@pytest.mark.parametrize("start_method", ["fork", "forkserver"])
def test_workers_change_nothing(folders: Folders, start_method: str) -> None:
    dataset = ClipDataset(*folders, PAIR, seed=5)
    alone = list(make_loader(dataset, EpochSampler(len(dataset), 2, 5, steps=5), workers=0, device=CPU))
    sampler = EpochSampler(len(dataset), 2, 5, steps=5, start=2)  # as a resumed run starts
    before = torch.get_rng_state()
    loader = make_loader(dataset, sampler, workers=2, device=CPU, start_method=start_method)
    shared = list(loader)
    assert torch.equal(torch.get_rng_state(), before)  # the method's random numbers are its own
    assert len(shared) == 3 and all(equal(a, b) for a, b in zip(alone[2:], shared, strict=True))
    assert loader.wait_s > 0


@pytest.mark.parametrize(("height", "width"), [(256, 344), (257, 345), (259, 347)])
@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_scaled_decoding_is_nearly_averaging(height: int, width: int, factor: int) -> None:
    """Measured: 1.2 / 0.9 / 0.6 levels at 1/2, 1/4, 1/8 on these noisy pictures, 0.3 on real frames."""
    jpeg = simplejpeg.encode_jpeg(pictures.drawn(1, height, width)[0], quality=95, colorsubsampling="420")
    small = decode(jpeg, height, width, factor)
    assert small.shape == (-(-height // factor), -(-width // factor), 3)
    h, w = height // factor, width // factor
    whole = simplejpeg.decode_jpeg(jpeg)[: h * factor, : w * factor]
    means = cv2.resize(whole, (w, h), interpolation=cv2.INTER_AREA)
    assert np.abs(small[:h, :w].astype(int) - means).mean() < 1.6


def test_scaled_decoding_cuts_the_views_its_geometry_names(tmp_path: Path) -> None:
    folders = write(tmp_path, [jpegs(2, 360, 480)])
    scaled, whole = (ClipDataset(*folders, PLAIN, seed=0, decode_scaled=scaled) for scaled in (True, False))
    frame = decode(scaled.store.read(*scaled.index.rows([0])[0][3:6]), 360, 480)
    moved = []
    for epoch in range(8):
        sample = scaled[Key(epoch, 0)]
        x0, y0, x1, y1, flip = sample.geometry["global"][0, 0].int().tolist()
        expected = cut(frame, Box(x0, y0, x1 - x0, y1 - y0), 48)
        apart = sample.views["global"][0, 0].numpy().astype(int) - (expected[:, ::-1] if flip else expected)
        assert np.abs(apart).mean() < 3
        moved.append(float((sample.geometry["global"] - whole[Key(epoch, 0)].geometry["global"]).abs().max()))
    assert 0 < max(moved) <= 4  # boxes lie on the grid of a quarter


def test_to_device_is_torchvisions_normalisation(folders: Folders) -> None:
    masked = replace(PAIR, patch_px=8, crops=(replace(PAIR.crops[0], mask=BlockMasks((0.4,), (0.0,))), PAIR.crops[1]))
    batch = next(iter(make_loader(ClipDataset(*folders, masked, 5), EpochSampler(5, 2, 5, steps=1), 0, CPU)))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    ready = to_device(batch, CPU, mean, std)
    assert ready["global"].shape == (2, 2, 2, 3, 32, 32) and ready["global"].is_contiguous()
    assert ready["local"].dtype == torch.float32
    image = batch.views["global"][1, 0, 1].numpy()
    assert torch.allclose(ready["global"][1, 0, 1], normalize(to_tensor(image), mean, std), atol=1e-6)
    assert batch.views["global"].dtype == torch.uint8  # normalising works on a copy
    assert ready.keys() == {"global", "global_box", "global_mask", "local", "local_box"}
    assert ready["local_box"].shape == (2, 3, 1, 5) and torch.equal(ready["local_box"], batch.geometry["local"])
    assert ready["global_mask"].shape == (2, 2, 2, 4, 4) and ready["global_mask"].dtype == torch.bool
    assert ready["global_mask"].any() and not ready["global_mask"].all()


def broken(jpeg: bytes) -> bytes:
    return jpeg[: len(jpeg) // 2]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_frame_that_does_not_decode_is_named(tmp_path: Path, workers: int) -> None:
    films = [jpegs(2, 40, 40), jpegs(3, 40, 40)]
    films[1][2] = broken(films[1][2])
    dataset = ClipDataset(*write(tmp_path, films), PLAIN, seed=0)
    loader = make_loader(dataset, EpochSampler(5, 5, 0, steps=1), workers, CPU, start_method="fork")
    with pytest.raises(StageError, match=r"frame at 0\.500 s of video 'take1' cannot be decoded") as error:
        list(loader)
    assert error.value.where == str(tmp_path / "frames" / shard_name(0))
    assert error.value.do == "extract the frames again" and "Traceback" not in str(error.value)


def test_a_frame_of_another_size_than_the_index_says_is_named(tmp_path: Path) -> None:
    folders = write(tmp_path, [jpegs(2, 40, 50)], size_of={1: (40, 48)})
    with pytest.raises(StageError, match=r"'take0' cannot be decoded, it is 50x40, expected 48x40"):
        ClipDataset(*folders, PLAIN, seed=0)[Key(0, 1)]


def test_frames_of_two_sizes_cannot_share_crops(tmp_path: Path) -> None:
    folders = write(tmp_path, [jpegs(1, 40, 50) + jpegs(1, 64, 64)])
    with pytest.raises(StageError, match=r"two sizes are drawn together, 50x40 and 64x64, in video 'take0'"):
        ClipDataset(*folders, PAIR, seed=0)[Key(0, 0)]


def test_a_draw_of_another_length_is_refused(folders: Folders) -> None:
    with pytest.raises(StageError, match=r"draw 'pair' has 2 frames, the method's views need 3"):
        ClipDataset(*folders, ViewPlan("pair", 3, PAIR.crops), seed=0)


def test_an_index_of_other_frames_is_refused(folders: Folders, tmp_path: Path) -> None:
    other, _ = write(tmp_path, [jpegs(2, 72, 96)])
    with pytest.raises(StageError, match="made from other frames"):
        ClipDataset(other, folders[1], PAIR, seed=0)


def test_a_missing_shard_is_named(folders: Folders, tmp_path: Path) -> None:
    store = tmp_path / "frames"
    shutil.copytree(folders[0], store)
    (store / shard_name(0)).unlink()
    with pytest.raises(StageError, match="missing shard"):
        ClipDataset(store, folders[1], PAIR, seed=0)[Key(0, 0)]


class Dying(ClipDataset):
    """Its workers die without a word, as when the machine runs out of memory."""

    def __getitems__(self, keys: list[Key]) -> Batch | StageError:
        os._exit(9)


def test_a_dead_worker_is_told_in_one_line(folders: Folders) -> None:
    loader = make_loader(Dying(*folders, PAIR, 0), EpochSampler(5, 2, 0, steps=2), 1, CPU, start_method="fork")
    with pytest.raises(StageError, match="a loader worker died") as error:
        list(loader)
    assert error.value.code == ExitCode.NO_ROOM


def test_other_errors_of_the_loader_stay_what_they_are() -> None:
    class Failing:
        def __len__(self) -> int:
            return 1

        def __iter__(self) -> Failing:
            return self

        def __next__(self) -> Batch:
            raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        list(Loader(Failing()))  # type: ignore[arg-type]


def test_the_clip_crop_works_from_the_store(folders: Folders) -> None:
    plan = ViewPlan("pair", 2, PAIR.crops, ClipCrop(40, (0.5, 1.0)))
    x0, y0, x1, y1, _ = ClipDataset(*folders, plan, seed=0)[Key(0, 0)].geometry["global"].movedim(-1, 0)
    assert (x0 >= 0).all() and (y0 >= 0).all() and (x1 <= 96.001).all() and (y1 <= 72.001).all()

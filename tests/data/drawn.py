"""Small drawn trees in the shapes of people's folders and of public data sets."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

SIDE = 32


def image(seed: int) -> np.ndarray:
    """A textured grey image with many values, (32, 32) uint8."""
    return np.random.default_rng(seed).integers(40, 220, (SIDE, SIDE)).astype(np.uint8)


def mask(marked: bool = True, at: int = 8) -> np.ndarray:
    """A mask with a marked square, or none, (32, 32) uint8."""
    pixels = np.zeros((SIDE, SIDE), np.uint8)
    if marked:
        pixels[at : at + 6, at : at + 6] = 255
    return pixels


def put(path: Path, pixels: np.ndarray) -> Path:
    """Write pixels as the ending says, or as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = path.suffix.lower() in (".png", ".jpg", ".bmp", ".tif", ".webp")
    done, data = cv2.imencode(path.suffix.lower() if known else ".png", pixels)
    assert done
    path.write_bytes(data.tobytes())
    return path


def images(root: Path, *names: str) -> Path:
    """Write an image, each another one, under each name."""
    for seed, name in enumerate(names):
        put(root / name, image(seed))
    return root


def masks(root: Path, *names: str, marked: bool = True) -> Path:
    """Write a mask under each name."""
    for at, name in enumerate(names):
        put(root / name, mask(marked, 2 + 7 * (at % 3)))
    return root


def numbered(folder: str, n: int, ending: str = ".png") -> list[str]:
    return [f"{folder}/{i:03}{ending}" for i in range(n)]


def mvtec_ad(root: Path) -> Path:
    """MVTec AD, and MPDD, VisA's 1-class form: Bergmann et al. 2019."""
    images(root, *numbered("train/good", 4), *numbered("test/good", 2), *numbered("test/bent", 2))
    return masks(root, "ground_truth/bent/000_mask.png", "ground_truth/bent/001_mask.png")


def mvtec_loco(root: Path) -> Path:
    """MVTec LOCO AD: several masks of one image in a folder of its name."""
    images(root, *numbered("train/good", 4), *numbered("validation/good", 2), *numbered("test/good", 2))
    images(root, *numbered("test/logical_anomalies", 2), *numbered("test/structural_anomalies", 2))
    logical, structural = "ground_truth/logical_anomalies", "ground_truth/structural_anomalies"
    masks(root, f"{logical}/000/000.png", f"{logical}/000/001.png", f"{logical}/001/000.png")
    return masks(root, f"{structural}/000/000.png", f"{structural}/001/000.png")


def mvtec_ad_2(root: Path) -> Path:
    """MVTec AD 2: a public test with masks, and private ones without labels."""
    images(root, *(f"train/good/{i:03}_regular.png" for i in range(4)), "validation/good/000_regular.png")
    images(root, "test_public/good/000_regular.png", "test_public/bad/000_regular.png", "test_public/bad/001_shift.png")
    images(root, "test_private/000_regular.png", "test_private_mixed/000_mixed.png")
    masks(root, "test_public/ground_truth/bad/000_regular_mask.png", "test_public/ground_truth/bad/001_shift_mask.png")
    return root


def btad(root: Path) -> Path:
    """BTAD: ok and ko, masks with another ending than the images."""
    images(root, *numbered("train/ok", 4, ".bmp"), *numbered("test/ok", 2, ".bmp"), *numbered("test/ko", 2, ".bmp"))
    return masks(root, *numbered("ground_truth/ko", 2))


def visa(root: Path, *, table: bool = True) -> Path:
    """VisA as published: `root` is one category, the table of the split lies beside it."""
    normal, anomaly = numbered("Data/Images/Normal", 6, ".JPG"), numbered("Data/Images/Anomaly", 2, ".JPG")
    for seed, name in enumerate([*normal, *anomaly]):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".jpg", image(seed))[1].tobytes())
    masks(root, *numbered("Data/Masks/Anomaly", 2))
    (root / "image_anno.csv").write_text("image,label,mask\n")
    if table:
        file = root.parent / "split_csv" / "1cls.csv"
        rows = [file.read_text().strip() if file.exists() else "object,split,label,image,mask"]
        for i, name in enumerate(normal):
            rows.append(f"{root.name},{'test' if i in (1, 4) else 'train'},normal,{root.name}/{name},")
        for i, name in enumerate(anomaly):
            rows.append(f"{root.name},test,anomaly,{root.name}/{name},{root.name}/Data/Masks/Anomaly/{i:03}.png")
        file.parent.mkdir(exist_ok=True)
        file.write_text("\n".join(rows) + "\n")
    return root


def kolektor_sdd(root: Path) -> Path:
    """KolektorSDD: each image has a label image beside it, black where there is no defect."""
    for item in range(1, 6):
        for part in range(3):
            put(root / f"kos{item:02}/Part{part}.jpg", image(10 * item + part))
            put(root / f"kos{item:02}/Part{part}_label.bmp", mask(marked=part == item == 1))
    return root


def kolektor_sdd2(root: Path) -> Path:
    """KolektorSDD2: a black or marked GT image beside each image, with defects in train too."""
    for split, first in (("train", 10_000), ("test", 20_000)):
        for i in range(4):
            put(root / split / f"{first + i}.png", image(first + i))
            put(root / split / f"{first + i}_GT.png", mask(marked=i == 3))
    return root


def dagm(root: Path) -> Path:
    """DAGM 2007: labels of defective images alone, in a folder of each split."""
    for split, numbers in (("Train", (575, 576, 577)), ("Test", (1, 2, 576))):
        for number in numbers:
            put(root / split / f"{number:04}.PNG", image(number))
        put(root / split / "Label" / f"{numbers[-1]:04}_label.PNG", mask())
        (root / split / "Label" / "Labels.txt").write_text("1\n")
    return root


def real_iad(root: Path) -> Path:
    """Real-IAD: `root` holds images of one resolution, and JSON files of all categories."""
    base = root / "realiad_256" / "audiojack"
    good = [f"OK/S{i:04}/audiojack_{i:04}_OK_C1.jpg" for i in range(6)]
    bad = [f"NG/BX/S{i:04}/audiojack_{i:04}_NG_BX_C1.jpg" for i in range(2)]
    images(base, *good, *bad)
    masks(base, *(name.replace(".jpg", "_mask.png") for name in bad))

    def row(name: str) -> dict[str, object]:
        is_good = name.startswith("OK")
        path = None if is_good else name.replace(".jpg", "_mask.png")
        return {
            "category": "audiojack", "anomaly_class": "OK" if is_good else "BX", "image_path": name, "mask_path": path,
        }  # fmt: skip

    document = {
        "meta": {"normal_class": "OK", "prefix": "audiojack/"},
        "train": [row(name) for name in good[:4]],
        "test": [row(name) for name in [*bad, *good[4:]]],
    }
    table = root / "realiad_jsons" / "realiad_jsons" / "audiojack.json"
    table.parent.mkdir(parents=True)
    table.write_text(json.dumps(document))
    return root

"""What a training step and a prediction of EfficientAD cost, beside plain PyTorch and beside the machine's own rate.

    python benchmarks/efficientad_speed.py --json out.json
    python benchmarks/efficientad_speed.py --images DATA/mvtec/bottle/train/good   # real ones instead of made-up ones

The peer is EfficientAD as its paper and nelson1425's program have it, in eager float32: the teacher on every image,
the student three times on whole images, Adam. Ours are the same losses (`whole`), and those on parts of images
(`part`). Turns are taken, and the least of the times counts. `cpu_s` is the processor time of all threads, which other
processes disturb less than the wall's. The floor is the direct convolutions' operations over the rate of one large
float32 product of matrices; Winograd's tiles need fewer, so that they can be below it.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from results import add_json_option, table, write

from blemish import runtime
from blemish.detectors.efficientad import pdn
from blemish.detectors.efficientad.graph import Networks, efficientad_graph
from blemish.detectors.efficientad.maps import Maps, Quantiles
from blemish.detectors.efficientad.networks import arrays
from blemish.detectors.efficientad.penalty import DrawnPenalty
from blemish.detectors.efficientad.settings import EfficientAdSettings
from blemish.detectors.efficientad.teacher import load_teacher
from blemish.detectors.efficientad.training import Images, Training, jittered
from blemish.imaging.decode import load
from blemish.imaging.geometry import Geometry
from blemish.imaging.resize import resize
from blemish.runtime.memory import kept_memory

SIDE = 256
PART = 24


class Plain:
    """EfficientAD in eager float32, written as the reference program writes it."""

    def __init__(self, teacher, student, autoencoder, mean, std):
        self.teacher, self.student, self.autoencoder = pdn.pdn(), pdn.pdn("small", 768), pdn.autoencoder()
        for module, weights in ((self.teacher, teacher), (self.student, student), (self.autoencoder, autoencoder)):
            module.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in weights.items()})
        self.mean, self.std = (torch.as_tensor(values).view(1, -1, 1, 1) for values in (mean, std))
        learnt = [*self.student.parameters(), *self.autoencoder.parameters()]
        self.optimiser = torch.optim.Adam(learnt, lr=1e-4, weight_decay=1e-5)

    def step(self, image, changed, other):
        """Take one step."""
        image, changed, other = (torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255 for x in (image, changed, other))
        with torch.no_grad():
            wanted = (self.teacher(image) - self.mean) / self.std
            wanted_changed = (self.teacher(changed) - self.mean) / self.std
        distance = (wanted - self.student(image)[:, :384]) ** 2
        loss = distance[distance >= torch.quantile(distance, 0.999)].mean()
        loss = loss + (self.student(other)[:, :384] ** 2).mean()
        rebuilt = self.autoencoder(changed)
        loss = loss + ((wanted_changed - rebuilt) ** 2).mean()
        loss = loss + ((rebuilt - self.student(changed)[:, 384:]) ** 2).mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()

    def maps(self, image):
        """Return both maps."""
        x = torch.from_numpy(image).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            teacher = (self.teacher(x) - self.mean) / self.std
            student, rebuilt = self.student(x), self.autoencoder.eval()(x)
            return [(teacher - student[:, :384]).square().mean(1), (rebuilt - student[:, 384:]).square().mean(1)]


def multiplications(side=SIDE):
    """Multiplications of the direct convolutions: teacher's, student's, autoencoder's."""
    counts = []
    for n_outputs in (384, 768):
        total, size, channels = 0, side, 3
        for name, known, kernel, _ in pdn.CONVS["small"]:
            size, width = size - kernel + 1, known or n_outputs
            total += size * size * width * channels * kernel * kernel
            channels = width
            size = size // 2 if name in pdn.POOLED else size
        counts.append(total)
    total, size = 0, side
    for _, into, out, kernel, stride, padding in pdn.ENCODER:
        size = (size + 2 * padding - kernel) // stride + 1
        total += size * size * into * out * kernel * kernel
    sizes = [height for height, _ in pdn.decoder_sizes((side, side))]
    for (_, into, out, kernel, _, padding), size in zip(pdn.DECODER, [*sizes, sizes[-1]], strict=True):
        made = size + 2 * padding - kernel + 1
        total += made * made * into * (out or 384) * kernel * kernel
    return (*counts, total)


def timed(functions, rounds):
    """The least wall and processor seconds of each function, taken in turns."""
    best = {name: [np.inf, np.inf] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            wall, cpu = time.perf_counter(), time.process_time()
            function()
            best[name] = np.minimum(best[name], [time.perf_counter() - wall, time.process_time() - cpu])
    return {name: {"wall_s": float(pair[0]), "cpu_s": float(pair[1])} for name, pair in best.items()}


def ratios(slow, fast):
    return {key: slow[key] / fast[key] for key in ("wall_s", "cpu_s")}


def made_up(n):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    waves = [128 + 50 * np.sin(x / 7 + a) * np.sin(y / 7 + b) for a, b in rng.uniform(0, 6, (n, 2))]
    return np.stack([np.repeat(np.clip(w + rng.normal(0, 6, w.shape), 0, 255)[..., None], 3, 2) for w in waves]).astype(
        np.uint8
    )


def images_of(folder, n):
    if folder is None:
        return made_up(n)
    return np.stack([resize(load(path), (SIDE, SIDE)) for path in sorted(folder.iterdir())[:n]])


def exported_and_torch(networks, plain, images):
    """The largest difference of the scores of the graph and of the torch networks, relative to the torch one."""
    model = efficientad_graph(networks, (SIDE, SIDE))
    running = runtime.load(model)
    pairs = [
        (
            [running.run(p[None])[n][0] for n in ("student_map", "autoencoder_map")],
            [m[0].numpy() for m in plain.maps(p[None])],
        )
        for p in images
    ]
    quantiles = [Quantiles.of(np.stack([torch_maps[k] for _, torch_maps in pairs])) for k in (0, 1)]
    maps = Maps(model, running, Geometry((SIDE, SIDE)), *quantiles, padding=False, pad_maps=True, border="edge")
    scores = np.array([[maps.joined(*ours).max(), maps.joined(*theirs).max()] for ours, theirs in pairs], np.float64)
    return float(np.abs(scores[:, 0] - scores[:, 1]).max()), float(np.abs(scores[:, 0] / scores[:, 1] - 1).max())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=4)
    add_json_option(parser, __file__)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    teacher = load_teacher("small").state
    images = images_of(asked.images, 6)
    parts = Images(images[:4], images[4:], DrawnPenalty((SIDE, SIDE), 0))
    settings = EfficientAdSettings(image_size=SIDE, max_steps=100, early_stop=False)
    ours = Training(settings, None, teacher, parts)
    networks = Networks(teacher, ours.student.weights(), arrays(ours.autoencoder), ours.mean.numpy(), ours.std.numpy())
    plain = Plain(*networks[:5])
    rng = np.random.default_rng(0)
    other = parts.penalty.parts(rng, 1, (SIDE, SIDE))
    changed = jittered(rng, images[:1])
    matrix = torch.randn(2048, 2048)
    graph = efficientad_graph(networks, (SIDE, SIDE))
    running = runtime.load(graph, threads=asked.threads)
    direct = runtime.load(graph, threads=asked.threads, passes=False)

    def ours_step(crop_hw):
        ours.crop_hw = crop_hw
        with kept_memory():
            ours.step(0, 1e-9)
            return timed({"ours": lambda: ours.step(1, 1e-9)}, 1)["ours"]

    report = {"threads": asked.threads, "torch": torch.__version__}
    report["product"] = timed({"product": lambda: matrix @ matrix}, 20)["product"]
    gflops = 2 * 2.048**3 / report["product"]["wall_s"], 2 * 2.048**3 / report["product"]["cpu_s"]
    predictions = timed(
        {
            "plain": lambda: plain.maps(images[:1]),
            "direct graph": lambda: direct.run(images[:1]),
            "graph": lambda: running.run(images[:1]),
        },
        asked.rounds * 2,
    )
    # Before the plain networks are trained.
    absolute, relative = exported_and_torch(networks, plain, images)
    plain.autoencoder.train()
    steps = {name: {"wall_s": np.inf, "cpu_s": np.inf} for name in ("plain", "whole", "part")}
    for _ in range(asked.rounds):
        taken = timed({"plain": lambda: plain.step(images[:1], changed, other)}, 1)["plain"]
        for name, one in (("plain", taken), ("whole", ours_step(ours.hw)), ("part", ours_step((PART, PART)))):
            steps[name] = {key: min(value, one[key]) for key, value in steps[name].items()}
    of_teacher, of_student, of_autoencoder = multiplications()
    ops = 2 * (of_teacher + of_student + of_autoencoder) / 1e9
    report |= {
        "gflop_an_image": ops,
        "rate_gflops": {"wall": gflops[0], "cpu": gflops[1]},
        "floor_s": {"wall": ops / gflops[0], "cpu": ops / gflops[1]},
        "predict": predictions,
        "step": steps,
        "predict_times_faster": ratios(predictions["plain"], predictions["graph"]),
        "step_times_faster": {name: ratios(steps["plain"], steps[name]) for name in ("whole", "part")},
        "share_of_product_rate": ratios({"wall_s": ops / gflops[0], "cpu_s": ops / gflops[1]}, predictions["graph"]),
        "largest_difference_of_scores": {"absolute": absolute, "relative": relative},
    }
    print(json.dumps(report, indent=1))
    named = {"prediction": report["predict_times_faster"]}
    named |= {f"step, {name}": found for name, found in report["step_times_faster"].items()}
    rows = [{"compared with eager PyTorch": name} | found for name, found in named.items()]
    formats = {key: [".1f"] for key in report["predict_times_faster"]}
    write(asked.json, [table("EfficientAD-S: times as fast as eager PyTorch", rows, formats=formats)], report)


if __name__ == "__main__":
    main()

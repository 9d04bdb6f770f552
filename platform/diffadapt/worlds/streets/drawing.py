"""Geometry of a procedural street: primitives in perspective, painted from far to near on one canvas of
numbers.

Each primitive has a number; tables give its colour, class, distance and light. So one pass of drawing yields
the picture, the label map, the depth and the lamps, and they cannot disagree. Lengths are in image heights at
depth 1, the bottom row's depth.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw

ROAD, PAVEMENT, BUILDING, POLE, TREE, SKY, PEDESTRIAN, CAR = range(8)
BONNET = 255
DARK, LIT_WINDOW, DARK_WINDOW, HEADLIGHT, TAIL_LIGHT, LAMP, MARKING = range(7)
"""What a primitive does at night."""
FAR = 60.0
SCALE = 2
"""Primitives are drawn at twice the resolution and averaged."""


@dataclass(frozen=True)
class World:
    """Ranges that scenes of one world are drawn from; the generator is trained in another than it is used
    in."""

    horizon: tuple[float, float] = (0.40, 0.50)
    road: tuple[float, float] = (0.42, 0.58)
    """Half the road's width."""
    pavement: tuple[float, float] = (0.18, 0.30)
    height: tuple[float, float] = (0.75, 1.7)
    """Of buildings."""
    walls: tuple[tuple[int, int, int], ...] = (
        (168, 120, 96),
        (150, 140, 130),
        (190, 172, 140),
        (120, 110, 112),
        (176, 150, 128),
    )
    asphalt: tuple[float, float] = (92.0, 118.0)
    leaves: tuple[tuple[int, int, int], ...] = ((66, 104, 52), (84, 116, 60))
    spread: float = 14.0
    """Standard deviation of a colour about its palette's."""
    windows: tuple[float, float] = (0.35, 0.55)
    """Share of a wall's cell that its window takes."""
    markings: tuple[str, ...] = ("dashed", "dashed", "double")


TOWN = World()
SUBURB = World(
    horizon=(0.36, 0.54),
    road=(0.36, 0.66),
    pavement=(0.12, 0.34),
    height=(0.5, 1.9),
    walls=((204, 196, 184), (132, 84, 70), (110, 124, 138), (214, 190, 150), (146, 156, 130), (96, 88, 84)),
    asphalt=(74.0, 138.0),
    leaves=((60, 92, 70), (104, 124, 48), (52, 84, 40)),
    spread=24.0,
    windows=(0.25, 0.65),
    markings=("dashed", "solid", "none"),
)
"""The world that the shipped generator learns from: wider ranges and other colours than TOWN's."""


@dataclass
class Layout:
    """Primitives by number and where they are seen; ``canvas`` is int32 (side, side) of numbers, at SCALE
    times the resolution."""

    side: int
    horizon: float
    vanish: float
    canvas: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.int32))
    colours: list[tuple[float, float, float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    depths: list[float] = field(default_factory=list)
    lights: list[int] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    """The object that a primitive belongs to, from 1; 0: none."""
    categories: list[int] = field(default_factory=list)
    """The class of each object."""

    def point(self, x: float, z: float, up: float = 0.0) -> tuple[float, float]:
        """Where a point ``x`` to the right, ``z`` deep and ``up`` above the ground is seen, in pixels of the
        canvas."""
        return (self.vanish + x / z) * self.side, (
            self.horizon + (1.0 - self.horizon) / z - up / z
        ) * self.side


class Painter:
    """Draws primitives on a layout's canvas, each over those before it."""

    def __init__(self, layout: Layout):
        self.layout = layout
        self.image = Image.new("I", (layout.side, layout.side))
        self.pen = ImageDraw.Draw(self.image)
        self.group = 0

    def _number(self, colour, label: int, depth: float, light: int) -> int:
        y = self.layout
        y.colours.append(tuple(float(c) for c in colour))
        y.labels.append(label)
        y.depths.append(float(depth))
        y.lights.append(light)
        y.groups.append(self.group)
        return len(y.labels) - 1

    def polygon(self, points, colour, label: int, depth: float, light: int = DARK) -> None:
        self.pen.polygon(
            [(float(a), float(b)) for a, b in points], fill=self._number(colour, label, depth, light)
        )

    def box(
        self, x0: float, x1: float, low: float, high: float, z: float, colour, label: int, light: int = DARK
    ) -> None:
        """An upright rectangle facing the camera."""
        left, top = self.layout.point(x0, z, high)
        right, bottom = self.layout.point(x1, z, low)
        self.pen.rectangle(
            (left, top, max(right, left), max(bottom, top)), fill=self._number(colour, label, z, light)
        )

    def ellipse(
        self, x: float, up: float, rx: float, ry: float, z: float, colour, label: int, light: int = DARK
    ) -> None:
        left, top = self.layout.point(x - rx, z, up + ry)
        right, bottom = self.layout.point(x + rx, z, up - ry)
        self.pen.ellipse(
            (left, top, max(right, left + 1), max(bottom, top + 1)),
            fill=self._number(colour, label, z, light),
        )

    def ground(
        self, x0: float, x1: float, z0: float, z1: float, colour, label: int, light: int = DARK
    ) -> None:
        p = self.layout.point
        self.polygon([p(x0, z0), p(x1, z0), p(x1, z1), p(x0, z1)], colour, label, z0, light)

    def begin(self, category: int) -> None:
        """What is drawn until :meth:`end` is one object."""
        self.layout.categories.append(category)
        self.group = len(self.layout.categories)

    def end(self) -> None:
        self.group = 0


def street_layout(rng: np.random.Generator, world: World, size: int) -> Layout:
    """One street, ``size`` pixels a side."""
    side = size * SCALE
    layout = Layout(side, rng.uniform(*world.horizon), rng.uniform(0.40, 0.60))
    paint = Painter(layout)
    paint.pen.rectangle((0, 0, side, side), fill=paint._number((128, 168, 214), SKY, FAR, DARK))
    half, walk = rng.uniform(*world.road), rng.uniform(*world.pavement)
    grey = rng.uniform(*world.asphalt)
    slab = grey + rng.uniform(22, 50)
    leaves = _colour(rng, world.leaves, world.spread / 2)
    p = layout.point
    band = layout.horizon * side - rng.uniform(0.02, 0.07) * side  # trees at the street's end
    paint.polygon([(0, band), (side, band + rng.uniform(-4, 4)), (side, side), (0, side)], leaves, TREE, 14.0)
    out = half + walk
    paint.polygon(
        [p(-6, 0.9), p(-6, FAR), p(6, FAR), p(6, 0.9)], (slab, slab * 0.97, slab * 0.93), PAVEMENT, 1.0
    )
    paint.polygon(
        [p(-half, 0.9), p(-half, FAR), p(half, FAR), p(half, 0.9)], (grey, grey, grey * 1.02), ROAD, 1.0
    )
    _markings(paint, rng, world, half)
    for left in (-1, 1):
        _side(paint, rng, world, left * out, left)
    things = [*_furniture(rng, half, walk, leaves), *_traffic(rng, half), *_people(rng, half, walk)]
    for z, draw in sorted(things, key=lambda thing: -thing[0]):
        draw(paint, z)
    if rng.random() < 0.6:
        rise = rng.uniform(0.03, 0.08)
        paint.pen.ellipse(
            (0.08 * side, (1 - rise) * side, 0.92 * side, (1 + 2 * rise) * side),
            fill=paint._number((46, 48, 56), BONNET, 0.8, DARK),
        )
    layout.canvas = np.asarray(paint.image)
    return layout


def _colour(rng: np.random.Generator, palette, spread: float) -> np.ndarray:
    return np.clip(
        np.array(palette[rng.integers(len(palette))], float)
        + rng.normal(0, spread)
        + rng.normal(0, spread / 3, 3),
        20,
        245,
    )


def _markings(paint: Painter, rng: np.random.Generator, world: World, half: float) -> None:
    style, white = world.markings[rng.integers(len(world.markings))], (222, 222, 214)
    width = 0.018
    for kerb in (-half, half):
        paint.ground(kerb - 0.02, kerb + 0.02, 0.9, 30.0, (172, 170, 166), PAVEMENT)
    if style == "dashed":
        z, step = rng.uniform(0.9, 1.2), 1.35
        while z < 14:
            paint.ground(-width, width, z, z * step, white, ROAD, MARKING)
            z *= step**2
    elif style != "none":
        for x in (-2.2 * width, 2.2 * width) if style == "double" else (0.0,):
            paint.ground(x - width, x + width, 0.9, 20.0, white, ROAD, MARKING)
    if rng.random() < 0.25:
        z = rng.uniform(1.6, 3.0)
        for x in np.arange(-half + 0.04, half - 0.04, 0.11):
            paint.ground(x, x + 0.055, z, z * 1.25, white, ROAD, MARKING)


def _side(paint: Painter, rng: np.random.Generator, world: World, x: float, side: int) -> None:
    """Houses along one side of the street, far ones first."""
    edges, z = [], rng.uniform(0.7, 1.1)
    while z < 11:
        deep = z * rng.uniform(1.25, 1.7)
        edges.append((z, deep, rng.random() < 0.16))
        z = deep
    for z0, z1, gap in reversed(edges):
        if gap:
            colour = _colour(rng, world.leaves, world.spread / 2)
            for z in (z1 * 0.98, (z0 + z1) / 2):
                paint.ellipse(
                    x + side * 0.35,
                    0.32,
                    0.34,
                    rng.uniform(0.3, 0.5),
                    z,
                    colour * rng.uniform(0.85, 1.1),
                    TREE,
                )
            continue
        _house(paint, rng, world, x, side, z0, z1)


def _house(
    paint: Painter, rng: np.random.Generator, world: World, x: float, side: int, z0: float, z1: float
) -> None:
    height, wall = rng.uniform(*world.height), _colour(rng, world.walls, world.spread)
    p, depth = paint.layout.point, (z0 + z1) / 2
    far = x + side * 3.0
    paint.box(min(x, far), max(x, far), 0.0, height, z0, wall * 0.86, BUILDING)
    paint.polygon([p(x, z0), p(x, z1), p(x, z1, height), p(x, z0, height)], wall, BUILDING, depth)
    paint.polygon(
        [p(x, z0, height), p(x, z1, height), p(x, z1, height * 0.95), p(x, z0, height * 0.95)],
        wall * 0.7,
        BUILDING,
        depth,
    )
    rows, columns, share = int(rng.integers(2, 5)), int(rng.integers(2, 4)), rng.uniform(*world.windows)
    pane = np.array((70, 84, 104), float) + rng.normal(0, 10)
    lit = rng.uniform(0.25, 0.6)
    for row in range(rows):
        low = height * (row + 0.5 * (1 - share) + 0.15) / (rows + 0.3)
        high = low + height * share / (rows + 0.3)
        for column in range(columns):
            light = LIT_WINDOW if rng.random() < lit else DARK_WINDOW
            a = z0 * (z1 / z0) ** ((column + 0.5 * (1 - share)) / columns)
            b = z0 * (z1 / z0) ** ((column + 0.5 * (1 + share)) / columns)
            paint.polygon(
                [p(x, a, low), p(x, b, low), p(x, b, high), p(x, a, high)], pane, BUILDING, depth, light
            )
        for column in range(3):
            light = LIT_WINDOW if rng.random() < lit else DARK_WINDOW
            near = x + side * (0.12 + 0.32 * column)
            other = near + side * 0.32 * share
            paint.box(min(near, other), max(near, other), low, high, z0, pane * 0.95, BUILDING, light)


def _furniture(rng: np.random.Generator, half: float, walk: float, leaves: np.ndarray) -> list:
    """Trees, lamps and signs on the pavements, as (depth, function that draws it)."""
    things: list = []
    for side in (-1, 1):
        z = rng.uniform(1.2, 2.2)
        kinds = rng.permutation(["tree", "lamp", "sign", "tree", "lamp", "none"])
        for kind in kinds[:5]:
            if kind == "tree":
                things.append(
                    (
                        z,
                        _tree(
                            side * (half + walk * 0.8),
                            rng.uniform(0.15, 0.26),
                            rng.uniform(0.45, 0.65),
                            leaves * rng.uniform(0.8, 1.15),
                        ),
                    )
                )
            elif kind == "lamp":
                things.append((z, _lamp(side * (half + 0.05), side, rng.uniform(0.85, 1.05))))
            elif kind == "sign":
                colour = ((196, 34, 40), (30, 80, 190), (226, 190, 40))[rng.integers(3)]
                things.append((z, _sign(side * (half + 0.08), rng.uniform(0.42, 0.52), colour)))
            z *= rng.uniform(1.25, 1.7)
    return things


def _tree(x: float, radius: float, up: float, colour):
    def draw(paint: Painter, z: float) -> None:
        paint.box(x - 0.025, x + 0.025, 0.0, up, z, (82, 62, 46), TREE)
        for dx, dy, scale, shade in ((-0.5, 0.0, 0.75, 0.85), (0.5, 0.05, 0.7, 1.1), (0.0, 0.35, 0.8, 1.0)):
            paint.ellipse(
                x + dx * radius, up + dy * radius, radius * scale, radius * scale, z, colour * shade, TREE
            )

    return draw


def _lamp(x: float, side: int, height: float):
    def draw(paint: Painter, z: float) -> None:
        paint.box(x - 0.014, x + 0.014, 0.0, height, z, (66, 68, 72), POLE)
        arm = x - side * 0.14
        paint.box(min(x, arm), max(x, arm), height - 0.02, height, z, (66, 68, 72), POLE)
        paint.box(arm - 0.04, arm + 0.04, height - 0.05, height - 0.015, z, (206, 204, 190), POLE, LAMP)

    return draw


def _sign(x: float, height: float, colour):
    def draw(paint: Painter, z: float) -> None:
        paint.begin(POLE)
        paint.box(x - 0.012, x + 0.012, 0.0, height, z, (110, 110, 112), POLE)
        paint.ellipse(x, height, 0.07, 0.07, z, colour, POLE)
        paint.ellipse(x, height, 0.035, 0.035, z, (230, 230, 226), POLE)
        paint.end()

    return draw


def _traffic(rng: np.random.Generator, half: float) -> list:
    cars = []
    for lane, oncoming in ((0.5, False), (-0.5, True)):
        z = rng.uniform(1.25, 2.6)
        for _ in range(int(rng.integers(0, 4))):
            cars.append((z, _car(rng, lane * half * rng.uniform(0.85, 1.1), oncoming)))
            z *= rng.uniform(1.45, 2.2)
    for side in (-1, 1):
        z = rng.uniform(1.4, 3.0)
        for _ in range(int(rng.integers(0, 3))):
            cars.append((z, _car(rng, side * (half - 0.11), side < 0, parked=True)))
            z *= rng.uniform(1.4, 1.8)
    return cars


def _car(rng: np.random.Generator, x: float, oncoming: bool, parked: bool = False):
    palette = (
        (180, 38, 38),
        (40, 62, 130),
        (210, 210, 208),
        (44, 46, 50),
        (128, 132, 138),
        (196, 170, 60),
        (52, 104, 84),
    )
    colour = _colour(rng, palette, 10.0)
    width, height = rng.uniform(0.15, 0.18), rng.uniform(0.22, 0.29)
    lamp = DARK if parked else HEADLIGHT if oncoming else TAIL_LIGHT

    def draw(paint: Painter, z: float) -> None:
        p = paint.layout.point
        paint.ground(x - width * 1.05, x + width * 1.05, z * 0.97, z * 1.12, (48, 48, 50), ROAD)
        paint.begin(CAR)
        for wheel in (-0.72, 0.72):
            paint.box(x + wheel * width - 0.03, x + wheel * width + 0.03, 0.0, 0.07, z, (24, 24, 26), CAR)
        paint.box(x - width, x + width, 0.035, height * 0.6, z, colour, CAR)
        roof, belt = height, height * 0.58
        paint.polygon(
            [
                p(x - width * 0.92, z, belt),
                p(x - width * 0.7, z, roof),
                p(x + width * 0.7, z, roof),
                p(x + width * 0.92, z, belt),
            ],
            colour * 0.92,
            CAR,
            z,
        )
        glass = [
            p(x - width * 0.74, z, belt + 0.01),
            p(x - width * 0.6, z, roof - 0.02),
            p(x + width * 0.6, z, roof - 0.02),
            p(x + width * 0.74, z, belt + 0.01),
        ]
        paint.polygon(glass, (58, 70, 84), CAR, z)
        off = (228, 226, 214) if oncoming else (140, 24, 26)
        for end in (-0.8, 0.8):
            paint.box(
                x + end * width - 0.028,
                x + end * width + 0.028,
                height * 0.34,
                height * 0.5,
                z,
                off,
                CAR,
                lamp,
            )
        paint.end()

    return draw


def _people(rng: np.random.Generator, half: float, walk: float) -> list:
    people = []
    for _ in range(int(rng.integers(1, 6))):
        side = rng.choice((-1, 1))
        x = side * (half + rng.uniform(0.03, walk * 0.9)) if rng.random() < 0.85 else rng.uniform(-half, half)
        coat, legs = rng.uniform(30, 215, 3), rng.uniform(25, 110, 3)
        people.append((float(rng.uniform(1.25, 4.5)), _person(x, rng.uniform(0.27, 0.34), coat, legs)))
    return people


def _person(x: float, height: float, coat, legs):
    def draw(paint: Painter, z: float) -> None:
        paint.begin(PEDESTRIAN)
        for leg in (-0.028, 0.028):
            paint.box(x + leg - 0.02, x + leg + 0.02, 0.0, height * 0.48, z, legs, PEDESTRIAN)
        paint.box(x - 0.058, x + 0.058, height * 0.42, height * 0.84, z, coat, PEDESTRIAN)
        paint.ellipse(x, height * 0.92, 0.032, height * 0.09, z, (206, 164, 138), PEDESTRIAN)
        paint.end()

    return draw

"""Axes whose windows start and end in ways that kernels, compiled or emulated, number alike."""

AXES = [  # size, window, stride, flush, longest tile
    (512, 128, 32, True, 32),
    (6000, 128, 32, True, 128),
    (6000, 128, 32, False, 32),
    (500, 128, 50, True, 32),
    (97, 17, 5, True, 32),
    (97, 17, 5, False, 128),
    (29, 3, 7, True, 32),
    (16, 5, 2, True, 32),
    (301, 7, 300, True, 64),
    (64, 64, 64, True, 32),
    (11, 4, 100, True, 32),
    (40, 3, 1, True, 32),
    (1, 1, 1, False, 32),
]

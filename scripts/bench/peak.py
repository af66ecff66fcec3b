"""Prints this machine's peak in f32: billions of operations a second in a large matrix product, all cores."""

import time

import numpy

SIZE = 2048
ROUNDS = 5


def main():
    generator = numpy.random.default_rng(1)
    left, right = (generator.random((SIZE, SIZE), dtype=numpy.float32) for _ in range(2))
    seconds = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - begin)
    print(f"{2 * SIZE**3 / min(seconds) / 1e9:.1f}")


if __name__ == "__main__":
    main()

"""Arithmetic on floating-point objects: bodies that attract each other."""

bodies = [[1.0 * i, 0.5 * i * i, -0.25 * i, 0.0, 0.1 / i, 0.05 * i, 1.0 / i] for i in range(1, 7)]
pairs = [(a, b) for i, a in enumerate(bodies) for b in bodies[i + 1:]]
step = 0.001
for _ in range(24000):
    for a, b in pairs:
        x, y, z = a[0] - b[0], a[1] - b[1], a[2] - b[2]
        pull = step / (x * x + y * y + z * z + 0.01) ** 1.5
        to_a, to_b = b[6] * pull, a[6] * pull
        a[3] -= x * to_a
        a[4] -= y * to_a
        a[5] -= z * to_a
        b[3] += x * to_b
        b[4] += y * to_b
        b[5] += z * to_b
    for body in bodies:
        body[0] += step * body[3]
        body[1] += step * body[4]
        body[2] += step * body[5]
print(*(body[0].hex() for body in bodies))

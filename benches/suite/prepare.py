"""Writes what the programs of the suite work on, the same in each run: text, a C program, and SQL.

Run in this folder. Only a generator of our own is used: the library's may change with its version."""


def numbers(seed):
    while True:
        seed = (seed * 6364136223846793005 + 1442695040888963407) % 2**64
        yield seed >> 33


def text(random, size):
    """Words, the short ones more often, so that it compresses as prose does."""
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["".join(letters[min(next(random), next(random)) % 26] for _ in range(2 + next(random) % 9)) for _ in range(5000)]
    words.sort(key=len)
    lines = []
    while size > 0:
        line = " ".join(words[next(random) % (1 + next(random) % 5000)] for _ in range(12))
        lines.append(line)
        size -= len(line) + 1
    return "\n".join(lines) + "\n"


def c_program(random, functions):
    """Functions of loops, branches and arrays, each of which calls those before it."""
    parts = ["typedef unsigned long word;\nstruct item { word key, value; struct item *next; };\n"]
    for i in range(functions):
        a, b, c = (next(random) % 97 + 2 for _ in range(3))
        callee = f"f{next(random) % i}(x ^ {b}, list)" if i else "x"
        parts.append(f"""
word f{i}(word x, struct item *list) {{
    word table[{a % 13 + 4}], sum = {b};
    for (int i = 0; i < {a % 13 + 4}; i++)
        table[i] = (x >> (i % {c % 11 + 2})) * {a} + i;
    for (struct item *at = list; at; at = at->next) {{
        if (at->key % {b} == {a % b})
            sum += at->value * table[at->key % {a % 13 + 4}];
        else if (at->key > {c * 1000})
            at->value ^= sum << {a % 7 + 1};
        else
            switch (at->key & 7) {{
            case {b % 8}: sum -= x / (at->value | 1); break;
            case {(b + 3) % 8}: at->value += {c}; break;
            default: sum = sum * 31 + at->key;
            }}
    }}
    return x & {1 << a % 5} ? sum + {callee} : sum;
}}
""")
    parts.append(f"word run(word x, struct item *list) {{ return f{functions - 1}(x, list) + f{functions // 2}(x, list); }}\n")
    return "".join(parts)


def sql(random, rows):
    yield "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, kind INTEGER, price INTEGER);\nBEGIN;\n"
    for i in range(rows):
        yield f"INSERT INTO item VALUES ({i}, 'item {next(random) % 10007}', {next(random) % 53}, {next(random) % 1000});\n"
    yield """COMMIT;
CREATE INDEX by_name ON item (name);
SELECT kind, count(*), sum(price), max(name) FROM item GROUP BY kind ORDER BY 3 DESC LIMIT 5;
UPDATE item SET price = price + 1 WHERE name LIKE '%77%';
SELECT count(*), sum(a.price * b.price) FROM item a JOIN item b ON a.name = b.name;
SELECT name, price FROM item ORDER BY price, name DESC LIMIT 5;
"""


with open("text", "w") as file:
    file.write(text(numbers(1), 12 << 20))
with open("program.c", "w") as file:
    file.write(c_program(numbers(2), 80))
with open("rows.sql", "w") as file:
    file.writelines(sql(numbers(3), 60000))

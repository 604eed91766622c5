"""Dictionaries, lists and strings: which words follow which."""

with open("/bench/suite/text") as file:
    words = file.read(1_200_000).split()
count, after = {}, {}
for previous, word in zip(words, words[1:]):
    count[word] = count.get(word, 0) + 1
    after.setdefault(previous, {}).setdefault(word, []).append(len(word))
common = sorted(count, key=lambda word: (-count[word], word))[:2000]
lengths = sum(sum(map(len, after.get(word, {}).values())) for word in common)
joined = "-".join(word.capitalize() for word in common).replace("ee", "E").split("E")
print(len(words), len(count), common[:3], lengths, len(joined), max(joined))

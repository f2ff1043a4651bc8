"""How servers divide their time: serve.py BASE_URL... [TOKENS]

For each server tokens/s of 1, 2, 4 and 8 clients at once, the time to the first token of a conversation of about TOKENS tokens (4,000) when it is new
and when it goes on, and of a short request beside a long prompt. Medians of five; of several servers one after the other in each round, so that what
else the machine does is the same for all. Every prompt begins in its own way, so that nothing is kept of it.
"""
import json
import statistics
import sys
import threading
import time
import urllib.request
import uuid

BASES = [given for given in sys.argv[1:] if not given.isdigit()]
LENGTH = next((int(given) for given in sys.argv[1:] if given.isdigit()), 4000)
WORDS = "The river flows through the town and the people live beside it . "
ROUNDS = 5


def post(base, body):
    request = urllib.request.Request(base + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    return urllib.request.urlopen(request)


def first(base, prompt, tokens=1):
    """Seconds to the first token, the text, and the last chunk's numbers."""
    start, at, text, last = time.perf_counter(), None, "", {}
    body = {"model": "any", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True, "cache_prompt": True}
    for line in post(base, body):
        if line.startswith(b"data: {"):
            chunk = json.loads(line[6:])
            if chunk["choices"]:
                at = at or time.perf_counter() - start
                text += chunk["choices"][0]["text"]
            last |= chunk
    return at, text, last


def together(base, clients, tokens=96):
    """Tokens per second of all, from the first request to the last answer."""
    ends = []

    def run():
        body = {"model": "any", "prompt": f"{uuid.uuid4()} {WORDS}", "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        post(base, body).read()
        ends.append(time.perf_counter())

    start = time.perf_counter()
    threads = [threading.Thread(target=run) for _ in range(clients)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    return clients * tokens / (max(ends) - start)


def conversation(base):
    """Seconds to the first token of a new conversation, and of its second turn; its tokens, and those that were kept of them."""
    prompt = f"{uuid.uuid4()} {WORDS * (LENGTH // 14)}"
    new, text, _ = first(base, prompt, 16)
    again, _, last = first(base, prompt + text + " And then", 2)
    kept = last.get("usage", {}).get("prompt_tokens_details", {}).get("cached_tokens", last["timings"].get("cache_n", 0))
    return new, again, last["timings"]["prompt_n"] + kept, kept


def beside(base):
    """Seconds to the first token of a short request alone, and beside a prompt that is being computed."""
    alone = first(base, f"{uuid.uuid4()} A short one")[0]
    long = threading.Thread(target=first, args=(base, f"{uuid.uuid4()} {WORDS * (LENGTH // 14)}"))
    long.start()
    time.sleep(0.3)
    busy = first(base, f"{uuid.uuid4()} A short one")[0]
    long.join()
    return alone, busy


def medians(run):
    """Of each server, in turn in each round."""
    rounds = [[run(base) for base in BASES] for _ in range(ROUNDS)]
    each = zip(*rounds)
    return [[statistics.median(values) for values in zip(*own)] for own in each]


for base in BASES:
    first(base, "warm up", 8)
print("servers".ljust(40), *BASES)
for clients in (1, 2, 4, 8):
    found = medians(lambda base: (together(base, clients),))
    print(f"{clients} at once, tokens/s".ljust(40), *(f"{rate:.0f}" for (rate,) in found), flush=True)
found = medians(conversation)
print("first token of a new conversation, s".ljust(40), *(f"{own[0]:.3f}" for own in found))
print("of its second turn, s".ljust(40), *(f"{own[1]:.3f}" for own in found))
print("tokens of it, and kept".ljust(40), *(f"{own[2]:.0f} {own[3]:.0f}" for own in found), flush=True)
found = medians(beside)
print("first token of a short request, s".ljust(40), *(f"{own[0]:.3f}" for own in found))
print("beside a long prompt, s".ljust(40), *(f"{own[1]:.3f}" for own in found))

"""How a server divides its time: serve.py BASE_URL [TOKENS]

Prints tokens/s of 1, 2, 4 and 8 clients at once, the time to the first token of a conversation of about TOKENS tokens (4,000) when it is new and
when it goes on, and of a short request beside a long prompt. Medians of five; every prompt begins in its own way, so that nothing is kept of it.
"""
import json
import statistics
import sys
import threading
import time
import urllib.request
import uuid

BASE, LENGTH = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 4000
WORDS = "The river flows through the town and the people live beside it . "


def post(path, body):
    request = urllib.request.Request(BASE + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return urllib.request.urlopen(request)


def first(prompt, tokens=1):
    """Seconds to the first token, the text, and the last chunk's numbers."""
    start, at, text, last = time.perf_counter(), None, "", {}
    body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True}
    for line in post("/v1/completions", body):
        if line.startswith(b"data: {"):
            last = json.loads(line[6:])
            at = at or time.perf_counter() - start
            text += last["choices"][0]["text"]
    return at, text, last


def together(clients, tokens=96):
    """Tokens per second of all, once each has begun."""
    ends = []

    def run():
        body = {"prompt": f"{uuid.uuid4()} {WORDS}", "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        post("/v1/completions", body).read()
        ends.append(time.perf_counter())

    start = time.perf_counter()
    threads = [threading.Thread(target=run) for _ in range(clients)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    return clients * tokens / (max(ends) - start)


def median(run):
    return statistics.median(run() for _ in range(5))


def beside():
    """Time to the first token of a short request alone, and beside a prompt that is being computed."""
    alone = first(f"{uuid.uuid4()} A short one")[0]
    long = threading.Thread(target=first, args=(f"{uuid.uuid4()} {WORDS * (LENGTH // 14)}",))
    long.start()
    time.sleep(0.3)
    busy = first(f"{uuid.uuid4()} A short one")[0]
    long.join()
    return alone, busy


print("clients tokens/s")
first("warm up", 8)
for clients in (1, 2, 4, 8):
    print(f"{clients:7} {median(lambda: together(clients)):8.1f}", flush=True)

cold, warm = [], []
for _ in range(3):
    prompt = f"{uuid.uuid4()} {WORDS * (LENGTH // 14)}"
    seconds, text, last = first(prompt, 16)
    cold.append(seconds)
    again, _, last = first(prompt + text + " And then", 2)
    warm.append(again)
    cached = last["usage"]["prompt_tokens_details"]["cached_tokens"]
    count = last["usage"]["prompt_tokens"]
print(f"first token of {count} tokens: new {statistics.median(cold):.3f} s, going on ({cached} kept) {statistics.median(warm):.3f} s")
alone, busy = zip(*[beside() for _ in range(3)])
print(f"first token of a short request: alone {statistics.median(alone):.3f} s, beside a prompt of {count} tokens {statistics.median(busy):.3f} s")

"""Official and common Python clients against a server: sdk.py BASE_URL NLL

BASE_URL without /v1; the model must be one that writes words (SmolLM2). NLL is the mean negative log-likelihood that eval-ppl finds for TEXT
without special tokens, in one window.
"""
import asyncio
import json
import math
import os
import subprocess
import sys
import tempfile
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import anthropic
import instructor
import jsonschema
import openai
from langchain_core.tools import tool as lc_tool
from langchain_openai import ChatOpenAI
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel

BASE, NLL = sys.argv[1], float(sys.argv[2])
ASK = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY = {"temperature": 0, "max_tokens": 24}
WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
                   "required": ["city", "days"], "additionalProperties": False},
}
TOOLS = [{"type": "function", "function": WEATHER}]
TEXT = "The river flows through the town . " * 20

client = openai.OpenAI(base_url=BASE + "/v1", api_key="none")
claude = anthropic.Anthropic(base_url=BASE, api_key="none")
# Always the likeliest token: what is sampled may be nothing at all.
LIKELIEST = {"temperature": 0}


class City(BaseModel):
    name: str
    country: str


def answered():
    return client.chat.completions.create(model="m", messages=ASK, **GREEDY)


def whole():
    return answered().choices[0].message.content


def count():
    return answered().usage.completion_tokens


def chat():
    assert "Paris" in whole()
    models = client.models.list().data
    assert len(models) == 1 and client.models.retrieve(models[0].id).id == models[0].id


def stream():
    chunks = list(client.chat.completions.create(model="m", messages=ASK, stream=True, stream_options={"include_usage": True}, **GREEDY))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole(), text
    assert chunks[-1].usage.completion_tokens == count() and not chunks[-1].choices
    with client.chat.completions.stream(model="m", messages=ASK, **GREEDY) as s:
        assert s.get_final_completion().choices[0].message.content == text


def several():
    r = client.chat.completions.create(model="m", messages=ASK, n=3, seed=1, temperature=1, max_tokens=12, logprobs=True, top_logprobs=4)
    assert len({c.message.content for c in r.choices}) > 1
    for c in r.choices:
        assert len(c.logprobs.content) == 12 and all(len(t.top_logprobs) == 4 for t in c.logprobs.content)
        joined = b"".join(bytes(t.bytes) for t in c.logprobs.content).decode(errors="replace")
        assert joined.strip() == c.message.content.strip(), joined


def tools():
    r = client.chat.completions.create(model="m", messages=ASK, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, temperature=0)
    call = r.choices[0].message.tool_calls[0]
    assert r.choices[0].finish_reason == "tool_calls" and r.choices[0].message.content is None
    arguments = json.loads(call.function.arguments)
    assert call.function.name == "get_weather" and 1 <= arguments["days"] <= 9 and arguments["city"]
    choice = {"type": "function", "function": {"name": "get_weather"}}
    with client.chat.completions.stream(model="m", messages=ASK, tools=TOOLS, tool_choice=choice, temperature=0) as s:
        streamed = s.get_final_completion().choices[0].message.tool_calls[0].function
    assert json.loads(streamed.arguments) == arguments
    # The result goes back, and is answered.
    said = [*ASK, r.choices[0].message.model_dump(exclude_none=True), {"role": "tool", "tool_call_id": call.id, "content": "Sunny"}]
    assert client.chat.completions.create(model="m", messages=said, **GREEDY).choices[0].message.content


def schema():
    said = [{"role": "user", "content": "Name the capital of France, as JSON with name and country."}]
    r = client.chat.completions.parse(model="m", messages=said, response_format=City, temperature=0, max_tokens=100)
    assert "Paris" in r.choices[0].message.parsed.name
    city = instructor.from_openai(client, mode=instructor.Mode.JSON_SCHEMA).chat.completions.create(
        model="m", messages=said, response_model=City, temperature=0, max_tokens=100)
    assert "Paris" in city.name


def random_schema(random, depth=0):
    """Some form that an answer can have, and that ends."""
    kind = random.choice(["enum", "boolean", "integer", "string", "null", "const", "array", "object", "anyOf"][: 9 if depth < 3 else 6])
    inner = lambda: random_schema(random, depth + 1)
    return {
        "enum": lambda: {"enum": random.sample(["red", "a b", 7, None, True, 2.5, "\u00e9\u65e5"], 3)},
        "boolean": lambda: {"type": "boolean"},
        "integer": lambda: {"type": "integer", "minimum": -5, "maximum": random.randint(0, 5000)},
        "string": lambda: random.choice([{"type": "string", "maxLength": 12}, {"type": "string", "pattern": "^[a-c]{2,5}$"}, {"type": "string", "format": "date"}]),
        "null": lambda: {"type": ["null", "boolean"]},
        "const": lambda: {"const": random.choice(["x", 1, [1, 2]])},
        "array": lambda: {"type": "array", "items": inner(), "minItems": random.randint(0, 2), "maxItems": 3},
        "object": lambda: obj({f"k{i}": inner() for i in range(random.randint(1, 4))}, random),
        "anyOf": lambda: {"anyOf": [inner(), inner()]},
    }[kind]()


def obj(properties, random):
    return {"type": "object", "properties": properties, "required": random.sample(list(properties), random.randint(0, len(properties))),
            "additionalProperties": False}


def schemas():
    """Two hundred schemas, each answered by chance: all of them are kept to."""
    def one(seed):
        random = Random(seed)
        schema = obj({"a": random_schema(random), "b": random_schema(random)}, random)
        form = {"type": "json_schema", "json_schema": {"name": "s", "strict": True, "schema": schema}}
        r = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Some JSON, please."}], response_format=form, temperature=1, seed=seed)
        text = r.choices[0].message.content
        assert r.choices[0].finish_reason == "stop", (schema, text)
        jsonschema.validate(json.loads(text), schema, format_checker=jsonschema.FormatChecker())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(200)))


def asynchronous():
    async def run():
        own = openai.AsyncOpenAI(base_url=BASE + "/v1", api_key="none")

        async def one():
            s = await own.chat.completions.create(model="m", messages=ASK, stream=True, **GREEDY)
            return "".join([c.choices[0].delta.content or "" async for c in s if c.choices])

        texts = await asyncio.gather(*[one() for _ in range(6)])
        assert set(texts) == {whole()}

    asyncio.run(run())


def errors():
    for call, kind in [
        (lambda: client.chat.completions.create(model="m", messages=[{"role": "user", "content": "a " * 9000}]), openai.BadRequestError),
        (lambda: client.chat.completions.create(model="m", messages=[]), openai.BadRequestError),
        (lambda: client.embeddings.create(model="m", input="a"), openai.InternalServerError),
        (lambda: client.models.retrieve("nothing"), openai.NotFoundError),
        (lambda: claude.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": "a " * 9000}]), anthropic.BadRequestError),
    ]:
        try:
            call()
            raise AssertionError(f"no {kind}")
        except kind:
            pass


def responses():
    r = client.responses.create(model="m", input=ASK[0]["content"], temperature=0, max_output_tokens=24)
    assert r.output_text == whole() and r.status == "completed" and r.usage.output_tokens == count()
    events = list(client.responses.create(model="m", input=ASK[0]["content"], temperature=0, max_output_tokens=24, stream=True))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == r.output_text
    assert [e.sequence_number for e in events] == list(range(len(events))) and events[-1].type == "response.completed"
    cut = client.responses.create(model="m", input=ASK[0]["content"], temperature=0, max_output_tokens=3)
    assert cut.status == "incomplete" and cut.incomplete_details.reason == "max_output_tokens" and cut.usage.output_tokens == 3
    flat = [{"type": "function", **WEATHER, "strict": True}, {"type": "web_search"}]
    with client.responses.stream(model="m", input="Weather?", tools=flat, tool_choice="required", parallel_tool_calls=False, temperature=0) as s:
        call = s.get_final_response().output[0]
    assert call.type == "function_call" and json.loads(call.arguments)["city"] and call.status == "completed"
    again = [{"role": "user", "content": "Weather?"}, call.model_dump(exclude={"parsed_arguments"}), {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny"}]
    assert client.responses.create(model="m", input=again, max_output_tokens=10, temperature=0).output_text
    r = client.responses.parse(model="m", input="Name the capital of France, as JSON.", text_format=City, temperature=0, max_output_tokens=100)
    assert r.output_parsed.name


def messages():
    m = claude.messages.create(model="m", max_tokens=24, messages=ASK, extra_body=LIKELIEST)
    assert m.content[0].text == whole() and m.stop_reason == "end_turn" and m.usage.output_tokens == count()
    with claude.messages.stream(model="m", max_tokens=24, messages=ASK, extra_body=LIKELIEST) as s:
        assert "".join(s.text_stream) == m.content[0].text
    own = [{"name": WEATHER["name"], "description": "w", "input_schema": WEATHER["parameters"]}]
    with claude.messages.stream(model="m", max_tokens=100, tools=own, tool_choice={"type": "tool", "name": "get_weather"}, messages=ASK, extra_body=LIKELIEST) as s:
        final = s.get_final_message()
    use = final.content[0]
    assert final.stop_reason == "tool_use" and use.input["city"]
    again = [*ASK, {"role": "assistant", "content": [{"type": "tool_use", "id": use.id, "name": use.name, "input": use.input}]},
             {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "Sunny"}]}]
    assert claude.messages.create(model="m", max_tokens=8, messages=again, extra_body=LIKELIEST).content[0].text
    assert claude.messages.count_tokens(model="m", messages=ASK).input_tokens == client.chat.completions.create(
        model="m", messages=ASK, **GREEDY).usage.prompt_tokens
    # The block that changes with every request costs nothing.
    long = "You are an assistant who knows rivers and towns. " * 40

    def cached(n):
        system = [{"type": "text", "text": f"x-anthropic-billing-header: cch={n}"}, {"type": "text", "text": long}]
        usage = claude.messages.create(model="m", max_tokens=1, messages=ASK, system=system).usage
        return usage.cache_read_input_tokens / (usage.cache_read_input_tokens + usage.input_tokens)

    cached(1)
    assert cached(2) > 0.95


def langchain():
    model = ChatOpenAI(base_url=BASE + "/v1", api_key="none", model="m", temperature=0, max_tokens=24, stream_usage=True)
    assert model.invoke(ASK[0]["content"]).content == whole()
    assert "".join(c.content for c in model.stream(ASK[0]["content"])) == whole()

    @lc_tool
    def get_weather(city: str) -> str:
        """The weather of a city."""
        return city

    assert model.model_copy(update={"max_tokens": 200}).bind_tools([get_weather], tool_choice="get_weather").invoke("Weather in Bern?").tool_calls[0]["args"]["city"]


def scores():
    """As evaluation harnesses score: echo and logprobs of a text, which must be what eval-ppl finds."""
    tokens = json.load(post("/tokenize", {"content": TEXT}))["tokens"]
    r = client.completions.create(model="m", prompt=tokens, echo=True, logprobs=1, max_tokens=1, temperature=0)
    own = r.choices[0].logprobs.token_logprobs[1:-1]
    assert len(own) == len(tokens) - 1
    nll = -math.fsum(own) / len(own)
    assert abs(nll - NLL) < 1e-4, (nll, NLL)


def command_line():
    """`llm`, as a user sets it up: a file that names the server."""
    model = client.models.list().data[0].id
    with tempfile.TemporaryDirectory() as folder:
        settings = f"- model_id: here\n  model_name: {model}\n  api_base: {BASE}/v1\n  api_key_name: none\n  supports_schema: true\n  supports_tools: true\n"
        Path(folder, "extra-openai-models.yaml").write_text(settings)

        def llm(*given):
            run = [Path(sys.executable).with_name("llm"), "prompt", "-m", "here", "--key", "none", "-o", "temperature", "0", "-o", "max_tokens", "24", *given]
            done = subprocess.run(run, env={**os.environ, "LLM_USER_PATH": folder}, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
            assert done.returncode == 0, done.stderr
            return done.stdout

        assert "Paris" in llm(ASK[0]["content"]) and "Paris" in llm("--no-stream", ASK[0]["content"])
        # Its schemas allow more than they name.
        dog = json.loads(llm("--schema", "name, age int", "-o", "max_tokens", "200", "Invent a dog"))
        assert isinstance(dog["name"], str) and isinstance(dog["age"], int)


def post(path, body):
    request = urllib.request.Request(BASE + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return urllib.request.urlopen(request)


def metrics():
    def read():
        text = urllib.request.urlopen(BASE + "/metrics").read().decode()
        return {(s.name, tuple(s.labels.items())): s.value for f in text_string_to_metric_families(text) for s in f.samples if f.type in ("counter", "histogram")}

    # The end token was chosen too.
    ended = count() + 1
    before = read()
    whole()
    after = read()
    assert len(before) > 8 and all(after[k] >= v for k, v in before.items())
    assert after[("ramrun_time_to_first_token_seconds_count", ())] == before[("ramrun_time_to_first_token_seconds_count", ())] + 1
    route = ("ramrun_requests_total", (("route", "/chat/completions"), ("status", "200")))
    assert after[route] == before[route] + 1
    assert after[("ramrun_generated_tokens_total", ())] == before[("ramrun_generated_tokens_total", ())] + ended


failed = []
tests = [chat, stream, several, tools, schema, schemas, asynchronous, errors, responses, messages, langchain, scores, command_line, metrics]
for test in tests:
    try:
        test()
        print("ok", test.__name__, flush=True)
    except Exception as e:  # noqa: BLE001: whatever a client raises is what is looked for
        failed.append(test.__name__)
        print("FAILED", test.__name__, type(e).__name__, str(e)[:500], flush=True)
print(f"{len(tests) - len(failed)} passed, {len(failed)} failed")
sys.exit(bool(failed))

// Official and common JavaScript clients against a server: node sdk.mjs BASE_URL, with MODULES naming a folder that has node_modules.
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import assert from 'node:assert/strict';

const require = createRequire(pathToFileURL(process.env.MODULES + '/'));
const load = async (name) => import(pathToFileURL(require.resolve(name)));
const named = (module) => module.default?.default ?? module.default;
const OpenAI = named(await load('openai'));
const Anthropic = named(await load('@anthropic-ai/sdk'));
const ai = await load('ai');
const { createOpenAICompatible } = await load('@ai-sdk/openai-compatible');

const base = process.argv[2];
const ask = [{ role: 'user', content: 'What is the capital of France?' }];
const greedy = { model: 'm', messages: ask, max_tokens: 24, temperature: 0 };
const openai = new OpenAI({ baseURL: base + '/v1', apiKey: 'none' });
const claude = new Anthropic({ baseURL: base, apiKey: 'none' });
const provider = createOpenAICompatible({ name: 'ram', baseURL: base + '/v1', includeUsage: true, supportsStructuredOutputs: true });
const answered = () => openai.chat.completions.create(greedy);
const whole = async () => (await answered()).choices[0].message.content;
const count = async () => (await answered()).usage.completion_tokens;
const schema = (properties) => ({ type: 'object', properties, required: Object.keys(properties), additionalProperties: false });
const text = { type: 'string' };

const tests = {
  async chat() {
    assert.match(await whole(), /Paris/);
    assert.equal((await openai.models.list()).data.length, 1);
  },
  async stream() {
    let streamed = '';
    for await (const chunk of await openai.chat.completions.create({ ...greedy, stream: true })) streamed += chunk.choices[0]?.delta?.content ?? '';
    assert.equal(streamed, await whole());
    const runner = openai.chat.completions.stream({ ...greedy, stream_options: { include_usage: true } });
    assert.equal(await runner.finalContent(), streamed);
    assert.equal((await runner.totalUsage()).completion_tokens, await count());
  },
  async tools() {
    const tools = [{ type: 'function', function: { name: 'get_weather', parameters: schema({ city: text }) } }];
    const answer = await openai.chat.completions.create({ ...greedy, max_tokens: 100, tools, tool_choice: 'required', parallel_tool_calls: false });
    assert.ok(JSON.parse(answer.choices[0].message.tool_calls[0].function.arguments).city);
  },
  async responses() {
    const stream = openai.responses.stream({ model: 'm', input: ask[0].content, max_output_tokens: 24, temperature: 0 });
    let streamed = '';
    for await (const event of stream) if (event.type === 'response.output_text.delta') streamed += event.delta;
    assert.equal(streamed, await whole());
  },
  async messages() {
    const message = await claude.messages.stream({ model: 'm', max_tokens: 24, messages: ask, temperature: 0 }).finalMessage();
    assert.equal(message.role, 'assistant');
    assert.ok(message.content[0].text && message.usage.output_tokens > 0);
  },
  async kit() {
    const stream = ai.streamText({ model: provider('m'), prompt: ask[0].content, maxOutputTokens: 24, temperature: 0 });
    let streamed = '';
    for await (const part of stream.textStream) streamed += part;
    assert.equal(streamed, await whole());
    assert.equal((await stream.usage).outputTokens, await count());
    const city = ai.jsonSchema(schema({ name: text, country: text }));
    const made = await ai.generateObject({ model: provider('m'), schema: city, prompt: 'Name the capital of France, as JSON.', maxOutputTokens: 100, temperature: 0 });
    assert.ok(made.object.name && made.object.country);
    const tools = { get_weather: ai.tool({ description: 'The weather', inputSchema: ai.jsonSchema(schema({ city: text })) }) };
    const called = await ai.generateText({ model: provider('m'), prompt: 'Weather in Bern?', tools, toolChoice: 'required', maxOutputTokens: 200, temperature: 0 });
    assert.equal(called.toolCalls[0].toolName, 'get_weather');
  },
};

let failed = 0;
for (const [name, test] of Object.entries(tests)) {
  try {
    await test();
    console.log('ok', name);
  } catch (error) {
    failed += 1;
    console.log('FAILED', name, String(error?.stack ?? error).slice(0, 800));
  }
}
console.log(`${Object.keys(tests).length - failed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);

// The page of `ram-run serve` in a browser, as a user meets it.
//
//     PAGE_MODULES=FOLDER node tests/clients/page.mjs http://127.0.0.1:8080 [KEY]
//
// PAGE_MODULES is a folder where `npm install playwright-core axe-core` ran; CHROMIUM the browser [default: /usr/bin/chromium];
// SCREENSHOTS a folder for pictures. The server is one with a small model that has a chat template.
import { createRequire } from 'node:module';
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import path from 'node:path';

const modules = createRequire(path.join(process.env.PAGE_MODULES ?? process.cwd(), 'package.json'));
const { chromium } = modules('playwright-core');
const axe = readFileSync(modules.resolve('axe-core/axe.min.js'), 'utf8');
const server = (process.argv[2] ?? process.env.PAGE_URL ?? 'http://127.0.0.1:8080').replace(/\/$/, '');
const key = process.argv[3] ?? process.env.PAGE_KEY ?? '';
const pictures = process.env.SCREENSHOTS;

// ---- A stand-in before the server: the same, but for what a test wants to be otherwise ----

const standIn = { answers: {}, asked: [] };
const proxy = http.createServer((request, response) => {
    const chunks = [];
    request.on('data', (chunk) => chunks.push(chunk)).on('end', () => {
        const body = Buffer.concat(chunks);
        standIn.asked.push({ path: request.url, body: body.toString(), key: request.headers.authorization });
        const own = standIn.answers[request.url];
        if (own) return own(request, response);
        // The origin is the stand-in's, which the server rightly does not know.
        const { origin, referer, ...headers } = request.headers;
        if (key) headers.authorization = `Bearer ${key}`;
        const to = http.request(server + request.url, { method: request.method, headers: { ...headers, host: new URL(server).host } }, (answer) => {
            response.writeHead(answer.statusCode, answer.headers);
            answer.pipe(response);
        });
        to.on('error', () => response.destroy());
        response.on('close', () => to.destroy());
        to.end(body);
    });
});
await new Promise((ready) => proxy.listen(0, '127.0.0.1', ready));
const before = `http://127.0.0.1:${proxy.address().port}`;

/** A stream of frames, a few each time. */
function stream(frames, each = 1, pause = 5) {
    return async (_, response) => {
        response.writeHead(200, { 'content-type': 'text/event-stream' });
        for (let i = 0; i < frames.length && !response.destroyed; i += each) {
            response.write(frames.slice(i, i + each).map((frame) => (typeof frame === 'string' ? frame : `data: ${JSON.stringify(frame)}\n\n`)).join(''));
            await new Promise((done) => setTimeout(done, pause));
        }
        response.end();
    };
}
const delta = (delta, more) => ({ choices: [{ index: 0, delta, finish_reason: null }], ...more });
const finish = { choices: [{ index: 0, delta: {}, finish_reason: 'stop' }], timings: { cache_n: 388, prompt_n: 24, prompt_ms: 1900, prompt_per_second: 12.6, predicted_n: 143, predicted_ms: 12544, predicted_per_second: 11.4, queue_ms: 0 } };
/** A whole answer with this text. */
function said(text, step = 12) {
    const pieces = [];
    for (let i = 0; i < text.length; i += step) pieces.push(delta({ content: text.slice(i, i + step) }));
    return [delta({ role: 'assistant', content: '' }), ': alive\n\n', ...pieces, finish, 'data: [DONE]\n\n'];
}
const CHAT = '/v1/chat/completions';

// ---- Tests ----

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium' });
let [passed, failed] = [0, 0];
const foreign = [];
let complaints = [];
async function test(name, run) {
    standIn.answers = {};
    standIn.asked = [];
    complaints = [];
    try {
        await run();
        assert.deepEqual(complaints, [], 'the console is silent');
        passed += 1;
        console.log(`ok      ${name}`);
    } catch (error) {
        failed += 1;
        console.log(`FAILED  ${name}\n${error.stack}`);
    }
    await Promise.all(browser.contexts().map((context) => context.close()));
}

/** A page of a user who was never here. */
async function visit(url, options = {}, given = key) {
    const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
    context.setDefaultTimeout(20_000);
    const page = await context.newPage();
    watch(page, url);
    await page.goto(`${url}/${given ? `#key=${encodeURIComponent(given)}` : ''}`);
    return page;
}
function watch(page, url) {
    const expected = /status of (401|503)|ERR_CONNECTION/;
    page.on('console', (message) => { if (message.type() === 'error' && !expected.test(message.text())) complaints.push(message.text()); });
    page.on('pageerror', (error) => complaints.push(error.stack));
    page.on('request', (request) => { if (!/^(data|blob):/.test(request.url()) && new URL(request.url()).origin !== new URL(url).origin) foreign.push(request.url()); });
}
const ready = (page) => page.waitForFunction(() => !document.getElementById('send').disabled);
const over = (page) => page.waitForSelector('#stop', { state: 'hidden' });
const text = (page, selector) => page.locator(selector).last().innerText();
async function write(page, message) {
    await page.fill('#prompt', message);
    await page.press('#prompt', 'Enter');
}
/** Few tokens, so that a test takes as long as it must. */
async function limit(page, tokens) {
    await page.evaluate((max_tokens) => { localStorage.settings = JSON.stringify({ max_tokens, temperature: 0.7, seed: 7 }); }, tokens);
    await page.reload();
    await ready(page);
}
async function accessible(page, what) {
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => window.axe.run());
    assert.deepEqual(violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.target.join(' ')).join(', ')}`), [], what);
}
const picture = async (page, name) => { if (pictures) await page.screenshot({ path: path.join(pictures, `${name}.png`) }); };
const fits = async (page, what) => assert.equal(await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth), 0, what);

await test('an answer arrives, with its statistics', async () => {
    const page = await visit(server);
    await limit(page, 60);
    await write(page, 'Tell me about the sea.');
    await over(page);
    assert.ok((await text(page, '.assistant .md')).length > 0);
    assert.match(await text(page, '.stats'), /prompt \d+.* in [\d.]+ m?s · \d+ tokens? at [\d.,]+ tok\/s/);
    assert.equal(await text(page, '.user .md'), 'Tell me about the sea.');
    assert.match(await text(page, '#context-now'), /[1-9]\d* of [\d,]+ tokens/);
    assert.equal(await text(page, '#status'), 'Answer complete');
});

await test('an answer is shown as it is written', async () => {
    const page = await visit(before);
    await ready(page);
    await page.evaluate(() => {
        window.lengths = new Set();
        const note = () => window.lengths.add(document.querySelector('.assistant .md').textContent.length);
        new MutationObserver(note).observe(document.getElementById('log'), { childList: true, subtree: true, characterData: true });
    });
    standIn.answers[CHAT] = stream(said('word '.repeat(100)), 1, 20);
    await write(page, 'Go');
    await over(page);
    const lengths = await page.evaluate(() => window.lengths.size);
    assert.ok(lengths > 10, `seen in ${lengths} lengths`);
});

await test('Escape and the button stop an answer, which then goes on', async () => {
    const page = await visit(before);
    await limit(page, 12);
    standIn.answers[CHAT] = stream(said('word '.repeat(500)), 1, 20);
    await write(page, 'Write a long story.');
    await page.waitForFunction(() => document.querySelector('.assistant .md')?.innerText.length > 20);
    await page.keyboard.press('Escape');
    await over(page);
    assert.equal(await text(page, '.stats'), 'stopped');
    const stopped = await text(page, '.assistant .md');
    standIn.answers = {};
    await page.click('text=Continue');
    await over(page);
    assert.ok((await text(page, '.assistant .md')).startsWith(stopped));
    assert.equal(JSON.parse(standIn.asked.findLast((asked) => asked.path === CHAT).body).messages.at(-1).role, 'assistant');
    standIn.answers[CHAT] = stream(said('word '.repeat(500)), 1, 20);
    await page.click('text=Regenerate');
    await page.click('#stop');
    await over(page);
    assert.equal(await page.evaluate(() => document.activeElement.id), 'prompt');
});

await test('answers and questions have versions', async () => {
    const page = await visit(server);
    await limit(page, 8);
    await write(page, 'First question');
    await over(page);
    await page.click('text=Regenerate');
    await over(page);
    await page.waitForSelector('.assistant .changes:has-text("2 / 2")');
    await page.click('.assistant [aria-label="Earlier version"]');
    await page.waitForSelector('.assistant .changes:has-text("1 / 2")');
    await page.click('.user >> text=Edit');
    await page.fill('.user textarea', 'Second question');
    await page.press('.user textarea', 'Enter');
    await over(page);
    assert.equal(await text(page, '.user .md'), 'Second question');
    assert.equal(await page.locator('article').count(), 2);
    await page.click('.user [aria-label="Earlier version"]');
    assert.equal(await text(page, '.user .md'), 'First question');
    assert.match(await text(page, '.assistant span.changes'), /1 \/ 2/, 'the branch kept its choice');
});

await test('conversations are kept over a reload, exported, deleted, and imported', async () => {
    const page = await visit(server);
    await limit(page, 6);
    await write(page, 'One');
    await over(page);
    await page.click('#new');
    await write(page, 'Two');
    await over(page);
    await page.reload();
    await ready(page);
    assert.equal(await page.locator('#conversations li').count(), 2);
    assert.equal(await text(page, '.user .md'), 'Two');
    const [file] = await Promise.all([page.waitForEvent('download'), page.click('#export-all')]);
    const exported = JSON.parse(readFileSync(await file.path(), 'utf8'));
    assert.deepEqual(exported.conversations.map((c) => c.title).sort(), ['One', 'Two']);
    await page.click('#delete');
    await page.click('#notice-undo');
    assert.equal(await page.locator('#conversations li').count(), 2, 'undone');
    await page.click('#delete');
    await page.click('#delete');
    assert.equal(await page.locator('#conversations li').count(), 0);
    await page.setInputFiles('#file', await file.path());
    await page.waitForSelector('#conversations li >> nth=1');
    await page.setInputFiles('#file', { name: 'x.json', mimeType: 'application/json', buffer: Buffer.from('{"format":"ram-run conversations","conversations":[{"messages":[{"id":"a","parent":"b"}]}]}') });
    await page.waitForSelector('text=Nothing is imported');
    await page.reload();
    await ready(page);
    assert.equal(await page.locator('#conversations li').count(), 2);
});

await test('a reload keeps what was written of an answer', async () => {
    const page = await visit(before);
    await ready(page);
    standIn.answers[CHAT] = stream(said('word '.repeat(2000)), 1, 20);
    await write(page, 'Go');
    await page.waitForFunction(() => document.querySelector('.assistant .md')?.innerText.length > 400);
    await page.reload();
    assert.ok((await text(page, '.assistant .md')).length > 100);
    assert.match(await text(page, '.stats'), /stopped/);
});

await test('the system prompt, the sampling and thinking are what the request has', async () => {
    const page = await visit(before);
    standIn.answers['/props'] = (_, response) => response.end(JSON.stringify({ default_generation_settings: { params: { temperature: 0.8 } }, chat_template: 'enable_thinking' }));
    await page.reload();
    await ready(page);
    await page.click('#open-settings');
    await page.fill('#set-system', 'Be brief.');
    await page.fill('#set-temperature', '0.25');
    await page.fill('#set-max_tokens', '9');
    await page.selectOption('#set-think', 'off');
    await picture(page, 'settings');
    await page.keyboard.press('Escape');
    standIn.answers[CHAT] = stream(said('Yes.'));
    await write(page, 'Is it?');
    await over(page);
    await write(page, 'Sure?');
    await over(page);
    const sent = JSON.parse(standIn.asked.findLast((asked) => asked.path === CHAT).body);
    assert.deepEqual(sent.messages.map((m) => `${m.role}: ${m.content}`), ['system: Be brief.', 'user: Is it?', 'assistant: Yes.', 'user: Sure?']);
    assert.deepEqual([sent.temperature, sent.max_tokens, sent.chat_template_kwargs], [0.25, 9, { enable_thinking: false }]);
    assert.equal('top_p' in sent, false);
});

await test('the prompt has a progress bar with the time left, thoughts are folded, errors are told', async () => {
    const page = await visit(before);
    await ready(page);
    const progress = (processed, time_ms) => delta({}, { prompt_progress: { total: 2000, cache: 200, processed, time_ms } });
    const thoughts = ['I ', 'think ', '<b>so</b>'].map((reasoning_content) => delta({ reasoning_content }));
    standIn.answers[CHAT] = stream([delta({ role: 'assistant', content: '' }), progress(200, 0), progress(1100, 3000), ...Array(40).fill(': alive\n\n'), ...thoughts, ...said('Done.').slice(2)], 1, 25);
    await write(page, 'Go');
    await page.waitForSelector('text=Reading the prompt: 1,100 of 2,000 tokens, 200 cached, 3.0 s left');
    await picture(page, 'prefill');
    await over(page);
    assert.equal(await page.locator('details.thinking').getAttribute('open'), null);
    await page.click('summary');
    assert.equal(await text(page, '.thinking div'), 'I think <b>so</b>');
    assert.equal(await text(page, '.stats'), 'prompt 412 (388 cached) in 1.9 s · 143 tokens at 11.4 tok/s');
    standIn.answers[CHAT] = stream([delta({ content: 'Half' }), { error: { message: 'No memory is left' } }]);
    await write(page, 'Again');
    await page.waitForSelector('text=No memory is left');
    standIn.answers[CHAT] = (_, response) => response.writeHead(429, { 'retry-after': '7' }).end('{"error":{"message":"Too many wait"}}');
    await write(page, 'Again');
    await page.waitForSelector('text=Too many wait. Try again in 7 s.');
    complaints = complaints.filter((complaint) => !complaint.includes('429'));
});

await test('a model without a template continues texts', async () => {
    const page = await visit(before);
    standIn.answers['/props'] = (_, response) => response.end(JSON.stringify({ default_generation_settings: { params: {} }, chat_template: null }));
    standIn.answers['/v1/completions'] = stream([{ choices: [{ text: ' upon' }] }, { choices: [{ text: ' a time', finish_reason: 'stop' }] }, { choices: [], usage: { prompt_tokens: 3, completion_tokens: 4 } }, 'data: [DONE]\n\n']);
    await page.reload();
    await ready(page);
    await write(page, 'Once');
    await over(page);
    await write(page, '');
    await over(page);
    await page.waitForFunction(() => document.querySelectorAll('.assistant').length === 2);
    assert.equal(JSON.parse(standIn.asked.findLast((asked) => asked.path === '/v1/completions').body).prompt, 'Once upon a time');
});

await test('what a model writes is text, whatever it is', async () => {
    const page = await visit(before);
    await ready(page);
    const hostile = [
        '<img src=x onerror="window.hit=1"> <script>window.hit=1</script> <style>*{display:none}</style>', '[a](javascript:window.hit=1) [b](data:text/html,x) [c](//x.example/) [d]( JaVaScRiPt:1)',
        '![picture](https://x.example/p.png) and [site](https://x.example/a_(b) "t") and https://x.example/plain.', '> '.repeat(3000) + 'deep', `${'- '.repeat(500)}deep`, '[['.repeat(2000), '*_'.repeat(2000), `x ${'`'.repeat(999)}`,
        '# Head **bold** and *so* ~~not~~ `code`', '| a | b |\n|---|:-:|\n| 1 | `x` |\n| 2 |', '1. one\n2. two\n   - inner\n\n     more\n3. three', '- [x] done\n- [ ] open', '```html\n<b onclick="window.hit=1">\n```', '***both*** snake_case_name 2 * 3 * 4',
    ].join('\n\n');
    standIn.answers[CHAT] = stream(said(hostile, 7), 20, 1);
    await write(page, 'Go');
    await over(page);
    const seen = await page.evaluate(() => {
        const md = document.querySelector('.assistant .md');
        const of = (selector) => [...md.querySelectorAll(selector)];
        const deep = (node) => 1 + Math.max(0, ...[...node.children].map(deep));
        return {
            hit: window.hit, bad: of('img, script, style, iframe, object, [onerror], [onclick]').length, depth: deep(md), heading: of('h4')[0]?.outerHTML, table: of('table tbody tr').map((row) => row.innerText),
            links: of('a').map((a) => [a.textContent, a.getAttribute('href'), a.rel]), items: of('ol > li').length, inner: of('ol ul li').length, code: of('pre code').at(-1)?.textContent, last: md.lastChild.outerHTML,
        };
    });
    assert.deepEqual({ ...seen, depth: seen.depth < 60 }, {
        hit: undefined, bad: 0, depth: true, heading: '<h4>Head <strong>bold</strong> and <em>so</em> <del>not</del> <code>code</code></h4>', table: ['1\tx', '2\t'],
        links: [['Image: picture', 'https://x.example/p.png', 'noopener noreferrer'], ['site', 'https://x.example/a_(b)', 'noopener noreferrer'], ['https://x.example/plain', 'https://x.example/plain', 'noopener noreferrer']],
        items: 3, inner: 1, code: '<b onclick="window.hit=1">', last: '<p><em><strong>both</strong></em> snake_case_name 2 * 3 * 4</p>',
    });
    await page.locator('.assistant .md table').scrollIntoViewIfNeeded();
    await picture(page, 'markdown');
});

for (const [name, long] of [
    ['paragraphs, lists and code', Array.from({ length: 550 }, (_, i) => `## Part ${i}\n\nSome *words* with \`code\` and [a link](https://x.example/${i}) that **go on** for a while, as texts do.\n\n- one\n- two ${i}\n- three\n\n\`\`\`rust\nlet x = ${i};\nprintln!("{x}");\n\`\`\`\n`).join('\n')],
    ['one paragraph', 'some *words* and `code` in a line that never ends '.repeat(2050)],
    ['one block of code', `\`\`\`\n${'let x = compute(y, 27); // and so on\n'.repeat(2800)}`],
    ['one list', '- an item with **bold** words in it\n'.repeat(2900)],
    ['one table', `| a | b | c |\n|---|---|---|\n${'| some words | *more* of them | 27 |\n'.repeat(2800)}`],
    ['nothing but beginnings', '[*`_('.repeat(20_000)],
]) {
    await test(`an answer of 100 kB does not stall the page: ${name}`, async () => {
        const page = await visit(before);
        await ready(page);
        standIn.answers[CHAT] = stream(said(long, 16), 16, 8);
        let [longest, shown] = [Infinity, 0];
        // Another program may have had the processor: the best of three.
        for (let i = 0; i < 3 && longest >= 200; i += 1) {
            await page.evaluate(() => {
                window.longest = 0;
                let last = performance.now();
                requestAnimationFrame(function frame() {
                    const now = performance.now();
                    window.longest = Math.max(window.longest, now - last);
                    last = now;
                    requestAnimationFrame(frame);
                });
            });
            await page.click('#new');
            await write(page, 'Go');
            await page.waitForSelector('#stop', { state: 'hidden', timeout: 60_000 });
            [longest, shown] = await page.evaluate(() => [window.longest, document.querySelector('.assistant .md').textContent.length]);
            console.log(`        longest frame ${longest.toFixed(0)} ms, ${(long.length / 1e3).toFixed(0)} kB`);
        }
        assert.ok(shown > long.length / 2, `${shown} characters shown`);
        assert.ok(longest < 200, `a frame took ${longest.toFixed(0)} ms`);
    });
}

await test('the plan has a row for each layer, which opens to its tensors and experts', async () => {
    const page = await visit(before);
    await ready(page);
    const plan = await (await fetch(`${server}/ram/plan`, { headers: key ? { authorization: `Bearer ${key}` } : {} })).json();
    const layers = 1 + Math.max(...plan.entries.map((e) => e.layer ?? 0));
    const experts = 1 + Math.max(...plan.entries.map((e) => e.expert ?? -1));
    await page.click('#tab-plan');
    await page.waitForSelector('tr.layer');
    assert.equal(await page.locator('tr.layer').count(), layers);
    assert.match(await page.locator('tr.layer .heat').first().innerText(), /^\d+\.\d$/);
    assert.match(await text(page, '.command code'), /^ram-run serve --(budget|weights) \d+/);
    assert.ok((await text(page, '#plan-body')).includes(plan.fingerprint));
    if (experts > 0) {
        const status = await (await fetch(`${server}/ram/status`, { headers: key ? { authorization: `Bearer ${key}` } : {} })).json();
        let round = 0;
        standIn.answers['/ram/events'] = async (_, response) => {
            response.writeHead(200, { 'content-type': 'text/event-stream' });
            for (; !response.destroyed; round += 1) {
                const counts = Array.from({ length: layers }, (_, l) => (l === 0 ? null : Array.from({ length: experts }, (_, x) => 100 * round + x)));
                response.write(`data: ${JSON.stringify({ ...status, experts: counts })}\n\n`);
                await new Promise((done) => setTimeout(done, 200));
            }
        };
        standIn.answers[CHAT] = stream(said('word '.repeat(60)), 1, 20);
        await page.reload();
        await ready(page);
        await write(page, 'Go');
        await over(page);
        await page.click('#tab-plan');
    }
    await page.focus('#layer-1');
    await page.keyboard.press('Enter');
    await page.waitForSelector('h3:focus');
    assert.equal(await page.getAttribute('#layer-1', 'aria-expanded'), 'true');
    if (experts > 0) {
        const row = page.locator('.grid[aria-label="Experts of layer 1"] tbody tr');
        assert.equal(await row.count(), experts);
        await page.waitForFunction(() => /^[\d,]+$/.test(document.querySelector('.fill').textContent));
        const first = await page.evaluate(() => document.querySelector('.fill').textContent);
        await page.waitForFunction((old) => document.querySelector('.fill').textContent !== old, first);
        await page.waitForFunction(() => [...document.querySelectorAll('tr:nth-child(2) .fill')].every((cell) => /^[1-9]/.test(cell.textContent)));
    }
    await picture(page, 'plan');
    await page.click('#layer >> text=Close');
    assert.equal(await page.evaluate(() => document.activeElement.id), 'layer-1');
});

await test('without a key the page asks for it, once, and says when it is refused', async () => {
    const refuse = (_, response) => response.writeHead(401).end('{"error":{"message":"no"}}');
    standIn.answers = { '/v1/models': refuse, '/props': refuse, '/ram/events': refuse };
    const page = await visit(before, {}, '');
    await page.waitForSelector('#key[open]');
    assert.ok(standIn.asked.every((asked) => asked.key === undefined), 'no key is sent where none was given');
    await page.keyboard.press('Escape');
    await page.waitForSelector('text=This server wants a key.');
    await page.click('#banner-key');
    await page.fill('#key-text', 'wrong');
    await page.keyboard.press('Enter');
    await page.waitForSelector('text=The server refuses this key');
    await accessible(page, 'the dialog');
    await page.fill('#key-text', 'right');
    // From here on the real server answers.
    standIn.answers = {};
    await page.keyboard.press('Enter');
    await ready(page);
    assert.equal(await page.evaluate(() => sessionStorage.apiKey), 'right');
    await page.goto(`${before}/#key=other%20one`);
    await page.waitForFunction(() => sessionStorage.apiKey === 'other one' && location.hash === '');
});

await test('while the model is prepared the page says so, and goes on by itself', async () => {
    let done = 0;
    standIn.answers['/health'] = (_, response) => {
        done += 0.2;
        if (done > 0.9) delete standIn.answers['/health'];
        response.writeHead(503).end(JSON.stringify({ status: 'loading', stage: 'quantizing', done }));
    };
    const page = await visit(before);
    await page.waitForSelector('text=quantizing, 40 %');
    await picture(page, 'loading');
    await ready(page);
    assert.ok(await page.isHidden('#banner'));
});

await test('with the keyboard alone', async () => {
    // Narrow: there the box does not have the focus from the beginning.
    const page = await visit(before, { viewport: { width: 900, height: 700 } });
    await ready(page);
    standIn.answers[CHAT] = stream(said('word '.repeat(500)), 1, 20);
    await page.setViewportSize({ width: 1280, height: 800 });
    await page.keyboard.press('Tab');
    assert.equal(await page.evaluate(() => document.activeElement.id), 'skip');
    await page.keyboard.press('Enter');
    assert.equal(await page.evaluate(() => document.activeElement.id), 'prompt');
    await page.keyboard.type('one');
    await page.keyboard.press('Shift+Enter');
    await page.keyboard.type('two');
    // The Enter that ends a composition does not send.
    await page.evaluate(() => document.activeElement.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', isComposing: true, bubbles: true, cancelable: true })));
    assert.equal(await page.locator('article').count(), 0);
    await page.keyboard.press('Enter');
    await page.waitForFunction(() => document.querySelector('.assistant .md')?.innerText.length > 20);
    await page.keyboard.press('Escape');
    await over(page);
    assert.equal(await text(page, '.user .md'), 'one\ntwo');
    assert.equal(await page.evaluate(() => document.activeElement.id), 'prompt');
    // Everything that can be pressed can be reached, and shows that it is.
    const [reached, plain] = [new Set(), []];
    for (let i = 0; i < 60; i += 1) {
        await page.keyboard.press('Tab');
        const at = await page.evaluate(() => {
            const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
            return { name: document.activeElement.id || document.activeElement.textContent, outline: outlineStyle !== 'none' && parseFloat(outlineWidth) >= 2, body: document.activeElement === document.body };
        });
        if (!at.body && !at.outline) plain.push(at.name);
        reached.add(at.name);
    }
    for (const name of ['tab-chat', 'show-machine', 'theme', 'new', 'open-settings', 'scroller', 'Copy', 'Edit', 'Regenerate', 'prompt', 'machine']) assert.ok(reached.has(name), `${name} of ${[...reached]}`);
    assert.deepEqual(plain, []);
    await page.focus('#tab-chat');
    await page.keyboard.press('ArrowRight');
    assert.ok(await page.isVisible('#plan'));
});

for (const scheme of ['light', 'dark']) {
    await test(`accessible in ${scheme} colours`, async () => {
        const page = await visit(before, { colorScheme: scheme, reducedMotion: 'reduce' });
        await ready(page);
        await page.waitForSelector('#memory-table tr >> nth=3');
        await accessible(page, 'empty');
        standIn.answers[CHAT] = stream(said('# Tides\n\nThe *sea* rises **twice** a day, see [this](https://x.example/). In code: `tide(t)`.\n\n| Place | Height |\n|---|---|\n| Saint-Malo | 12 m |\n| Venice | 1 m |\n\n```python\ndef tide(t):\n    return math.cos(2 * math.pi * t / 12.42)\n```\n\n1. Wait.\n2. Swim.\n\n> Time and tide wait for no man.'));
        await write(page, 'When does the sea rise?');
        await over(page);
        await page.waitForTimeout(2200);
        await accessible(page, 'chat and machine');
        await picture(page, `chat-${scheme}`);
        await page.click('#open-settings');
        await accessible(page, 'settings');
        await page.keyboard.press('Escape');
        await page.click('#tab-plan');
        await page.click('#layer-2');
        await accessible(page, 'plan');
        await picture(page, `plan-${scheme}`);
    });
}

await test('the colours follow the system until one chooses', async () => {
    const page = await visit(server, { colorScheme: 'dark' });
    const paper = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const dark = await paper();
    await page.click('#theme');
    assert.notEqual(await paper(), dark, 'light');
    await page.reload();
    assert.notEqual(await paper(), dark, 'kept');
    await page.click('#theme');
    assert.equal(await paper(), dark);
});

for (const [name, options] of [['320 px wide', { viewport: { width: 320, height: 640 } }], ['at 200 % zoom', { viewport: { width: 640, height: 400 }, deviceScaleFactor: 2 }], ['at 400 % zoom', { viewport: { width: 320, height: 200 }, deviceScaleFactor: 4 }], ['with forced colours', { forcedColors: 'active' }]]) {
    await test(`usable ${name}`, async () => {
        const page = await visit(before, options);
        await ready(page);
        standIn.answers[CHAT] = stream(said(`${'x'.repeat(300)}\n\n| a | b | c | d |\n|---|---|---|---|\n| some | words | that | ${'are '.repeat(20)} |\n\n\`\`\`\n${'wide '.repeat(60)}\n\`\`\`\n\n${'Words. '.repeat(100)}`));
        await write(page, `${'y'.repeat(200)} and so on`);
        await over(page);
        await fits(page, 'chat');
        assert.ok(await page.locator('#send').isVisible());
        await picture(page, name.replace(/\W+/g, '-'));
        await accessible(page, 'chat');
        for (const side of ['machine', 'list']) {
            const button = page.locator(`#show-${side}`);
            if ((await button.getAttribute('aria-expanded')) === 'false') await button.click();
            assert.ok(await page.locator(`#${side}`).isVisible());
            await fits(page, side);
            if (side === 'machine') await picture(page, `${name.replace(/\W+/g, '-')}-machine`);
            if (options.viewport) await button.click();
        }
        await page.click('#tab-plan');
        await page.click('#layer-1');
        await fits(page, 'plan');
        await accessible(page, 'plan');
        await picture(page, `${name.replace(/\W+/g, '-')}-plan`);
        await page.click('#tab-chat');
        await page.click('#open-settings');
        await fits(page, 'settings');
    });
}

await test('nobody else was asked for anything', async () => assert.deepEqual(foreign, []));

await browser.close();
proxy.close();
proxy.closeAllConnections();
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed ? 1 : 0;

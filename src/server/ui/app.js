// The page of `ram-run serve`: a chat, the machine, the plan. It asks its own server only, and what a model says
// becomes texts and elements made here, never markup.

// ---- Small things ----

const $ = (id) => document.getElementById(id);

/** `el('p.soft', 'text', {title: 'x'}, [more])`: children, lists of them and properties as they come. */
function el(what, ...rest) {
	const [tag, ...classes] = what.split('.');
	const node = document.createElement(tag);
	if (classes.length) node.className = classes.join(' ');
	for (const part of rest.flat()) {
		if (typeof part === 'string' || part instanceof Node) node.append(part);
		else for (const name in part) name in node ? (node[name] = part[name]) : node.setAttribute(name, part[name]);
	}
	return node;
}

const count = (n) => Math.round(n).toLocaleString('en');
const plural = (n, word) => `${count(n)} ${word}${n === 1 ? '' : 's'}`;
const rate = (n) => (n >= 100 ? count(n) : n.toFixed(1));
const time = (s) => (s < 10 ? `${s.toFixed(1)} s` : s < 120 ? `${Math.round(s)} s` : `${Math.round(s / 60)} min`);
/** Decimal, as on the command line. */
const size = (n) => (n >= 1e9 ? `${(n / 1e9).toFixed(2)} GB` : n >= 1e6 ? `${(n / 1e6).toFixed(1)} MB` : `${(n / 1e3).toFixed(1)} kB`);
const many = (n) => (n >= 1e9 ? `${(n / 1e9).toFixed(1)} billion` : n >= 1e6 ? `${(n / 1e6).toFixed(1)} million` : count(n));
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
// `randomUUID` is missing over plain HTTP from another machine.
const fresh = () => [...crypto.getRandomValues(new Uint32Array(3))].map((n) => n.toString(36)).join('');
/** For whoever hears the page: the transcript itself is silent. */
const say = (text) => { $('status').textContent = text; };

function notice(text, undo) {
	$('notice-text').textContent = text;
	$('notice-undo').hidden = !undo;
	$('notice-undo').onclick = () => { $('notice').hidden = true; undo(); };
	$('notice').hidden = false;
}
$('notice-close').onclick = () => { $('notice').hidden = true; };

function copier(text) {
	const button = el('button', 'Copy', { type: 'button' });
	button.onclick = async () => {
		try {
			await navigator.clipboard.writeText(text());
		} catch {
			// Over plain HTTP from another machine only this old way is left.
			const area = el('textarea.unseen', { value: text() });
			document.body.append(area);
			area.select();
			document.execCommand('copy');
			area.remove();
		}
		button.textContent = 'Copied';
		say('Copied');
		setTimeout(() => { button.textContent = 'Copy'; }, 1500);
	};
	return button;
}

/** Rows of a table of facts; what has not changed stays, and so does a selection in it. */
function facts(body, rows) {
	rows.forEach(([name, value, swatch], i) => {
		const row = body.rows[i] ?? body.appendChild(el('tr', el('th', { scope: 'row' }), el('td')));
		if (row.dataset.name !== name) row.cells[0].replaceChildren(swatch ? el(`span.swatch.${swatch}`) : '', name);
		row.dataset.name = name;
		if (row.cells[1].textContent !== value) row.cells[1].textContent = value;
	});
	while (body.rows.length > rows.length) body.lastChild.remove();
}

// ---- The server ----

/** What the user is told of a request that failed. */
class Refused extends Error {}
class NoKey extends Refused {}

let key = '';
function takeKey() {
	const given = /^#key=(.+)$/.exec(location.hash);
	if (given) {
		sessionStorage.key = decodeURIComponent(given[1]);
		// Not for the history, nor for whoever looks at the screen.
		history.replaceState(null, '', location.pathname);
	}
	key = sessionStorage.key ?? '';
}
takeKey();
addEventListener('hashchange', () => { takeKey(); unlock(); });

/** One dialog, however many requests wait for the key. */
let asking = null;
function wantKey(used) {
	if (key !== used) return null;
	asking ??= new Promise((given, failed) => {
		const dialog = $('key');
		$('key-refused').hidden = !used;
		$('key-form').onsubmit = (event) => {
			event.preventDefault();
			key = sessionStorage.key = $('key-text').value.trim();
			given();
			dialog.close();
		};
		$('key-cancel').onclick = () => dialog.close();
		dialog.onclose = () => {
			asking = null;
			$('key-text').value = '';
			failed(new NoKey('This server wants a key.'));
		};
		dialog.showModal();
	});
	return asking;
}

async function ask(path, body, signal) {
	for (;;) {
		const used = key;
		const headers = { ...(used && { authorization: `Bearer ${used}` }), ...(body && { 'content-type': 'application/json' }) };
		const response = await fetch(path, { method: body ? 'POST' : 'GET', headers, body: body && JSON.stringify(body), signal });
		if (response.ok) return response;
		if (response.status !== 401) {
			const told = await response.json().catch(() => null);
			const wait = response.headers.get('retry-after');
			throw new Refused((told?.error?.message ?? `The server answers with status ${response.status}`) + (wait ? `. Try again in ${wait} s.` : ''));
		}
		await wantKey(used);
	}
}

/** The data of server-sent events; comments only keep a connection alive. */
async function* frames(response) {
	const reader = response.body.getReader();
	const decoder = new TextDecoder();
	let rest = '';
	try {
		for (;;) {
			const { done, value } = await reader.read();
			if (done) return;
			const parts = (rest + decoder.decode(value, { stream: true })).split('\n\n');
			rest = parts.pop();
			for (const part of parts) if (part.startsWith('data:')) yield part.slice(5);
		}
	} finally {
		reader.cancel().catch(() => {});
	}
}

// ---- Markdown ----

const safe = (url) => /^https?:\/\/\S+$/i.test(url) && URL.canParse(url);
const link = (url, ...children) => el('a', { href: url, target: '_blank', rel: 'noopener noreferrer' }, ...children);
const MARKS = /\\[!-/:-@[-`{-~]|`+|\*+|_+|~~|!?\[|\]|https?:\/\/[^\s<>"]+|\n/gi;
// All is bounded: a long answer may consist of beginnings.
const TARGET = /\(\s{0,9}<?([^\s<>()]{0,2000}(?:\([^\s<>()]{0,500}\)[^\s<>()]{0,2000}){0,4})>?(?:\s{1,9}(?:"[^"]{0,300}"|'[^']{0,300}'))?\s{0,9}\)/y;
/** Delimiters that may still be closed; this also bounds how deep elements nest. */
const OPEN = 32;

/** Inline Markdown in one pass: pieces in order, and a stack of those delimiters among them that are still open. */
function inline(text) {
	const out = [];
	let open = [];
	const endless = new Set();
	const marks = new RegExp(MARKS);
	let from = 0;
	const last = (is) => open.findLastIndex(is);
	for (let found; (found = marks.exec(text)); ) {
		const [mark] = found;
		const at = found.index;
		if (at > from) out.push(text.slice(from, at));
		let to = at + mark.length;
		if (mark === '\n') {
			out.push(el('br'));
		} else if (mark[0] === '\\') {
			out.push(mark[1]);
		} else if (mark[0] === '`') {
			let end = endless.has(mark) ? -1 : text.indexOf(mark, to);
			while (end >= 0 && text[end + mark.length] === '`') {
				while (text[end] === '`') end += 1;
				end = text.indexOf(mark, end);
			}
			out.push(end < 0 ? mark : el('code', text.slice(to, end).replaceAll('\n', ' ').replace(/^ (.*\S.*) $/, '$1')));
			if (end < 0) endless.add(mark);
			else to = end + mark.length;
		} else if (/^h/i.test(mark)) {
			const url = mark.replace(/[.,;:!?'*_~`\]]+$/, '').replace(/^([^(]*?)\)+$/, '$1');
			out.push(safe(url) ? link(url, url) : url);
			to = at + url.length;
		} else if (mark.endsWith('[')) {
			open.push({ mark, at: out.length });
			out.push(mark);
		} else if (mark === ']') {
			const i = last((opener) => opener.mark.endsWith('['));
			TARGET.lastIndex = to;
			const target = i >= 0 && text[to] === '(' ? TARGET.exec(text) : null;
			if (target && safe(target[1])) {
				// A picture would be a request to somebody else: it is a link.
				const node = link(target[1], open[i].mark === '![' ? 'Image: ' : '', out.splice(open[i].at).slice(1));
				node.querySelectorAll('a').forEach((inner) => inner.replaceWith(...inner.childNodes));
				out.push(node);
				to = TARGET.lastIndex;
			} else {
				out.push(mark);
			}
			if (i >= 0) open.length = i;
		} else {
			// Emphasis: what stands beside a run says whether it opens or closes.
			const [before, after] = [text[at - 1] ?? ' ', text[to] ?? ' '];
			const word = /[\p{L}\p{N}]/u;
			let left = mark.length > 3 || (mark[0] === '_' && word.test(before) && word.test(after)) ? 0 : mark.length;
			const opens = left && /\S/.test(after);
			let literal = mark;
			while (left && /\S/.test(before)) {
				const i = last((opener) => opener.mark[0] === mark[0]);
				if (i < 0) break;
				const opener = open[i];
				const used = mark === '~~' || Math.min(left, opener.left) > 1 ? 2 : 1;
				const inner = out.splice(opener.at + 1);
				opener.left -= used;
				out[opener.at] = opener.mark.slice(0, opener.left);
				out.push(el(mark === '~~' ? 'del' : used > 1 ? 'strong' : 'em', inner));
				open.length = opener.left ? i + 1 : i;
				left -= used;
				literal = mark.slice(0, left);
			}
			if (left && opens) open.push({ mark, left, at: out.length });
			if (literal) out.push(literal);
		}
		if (open.length > OPEN) open.shift();
		from = marks.lastIndex = to;
	}
	out.push(text.slice(from));
	return out;
}

const FENCE = /^ {0,3}(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})[ \t]+(\S.*)$/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?:[ \t]{1,4}|$)/;
const COLUMNS = /^\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?$/;
const QUOTE = /^ {0,3}> ?/;
const blank = (line) => !/\S/.test(line);
const columns = (line, next) => line.includes('|') && next?.includes('|') && COLUMNS.test(next.trim());
const begins = (line, next) => [FENCE, HEADING, RULE, QUOTE].some((start) => start.test(line)) || columns(line, next);

/** Blocks, each with its first line: nothing before that has a say in what the block is. */
function parse(lines, depth = 0) {
	const blocks = [];
	for (let i = 0; i < lines.length; ) {
		const first = i;
		const line = lines[i];
		const block = (kind, more) => blocks.push({ kind, first, depth, text: lines.slice(first, i).join('\n'), ...more });
		let found;
		if (blank(line)) {
			i += 1;
		} else if ((found = FENCE.exec(line))) {
			const [, fence, info] = found;
			const end = new RegExp(`^ {0,3}${fence[0]}{${fence.length},}[ \t]*$`);
			while (++i < lines.length && !end.test(lines[i]));
			block('fence', { info: info.trim().split(/\s/)[0], text: lines.slice(first + 1, i).join('\n') });
			i += 1;
		} else if ((found = HEADING.exec(line))) {
			i += 1;
			block('heading', { level: found[1].length, text: found[2].replace(/ #+[ \t]*$/, '') });
		} else if (RULE.test(line)) {
			i += 1;
			block('rule');
		} else if (QUOTE.test(line) && depth < 6) {
			while (i < lines.length && QUOTE.test(lines[i])) i += 1;
			block('quote');
		} else if (columns(line, lines[i + 1])) {
			while (i < lines.length && lines[i].includes('|')) i += 1;
			block('table');
		} else if ((found = ITEM.exec(line)) && depth < 6) {
			const [, { length: indent }, mark] = found;
			const ordered = /\d/.test(mark);
			const items = [];
			let gap = false;
			for (; i < lines.length; i += 1) {
				const inset = lines[i].search(/\S/);
				const item = ITEM.exec(lines[i]);
				if (inset < 0) {
					gap = true;
					continue;
				} else if (item && inset < indent + 2 && !RULE.test(lines[i])) {
					if (/\d/.test(item[2]) !== ordered) break;
					items.push([lines[i].slice(item[0].length)]);
				} else if (inset > indent || (!gap && !begins(lines[i], lines[i + 1]))) {
					if (gap) items.at(-1).push('');
					items.at(-1).push(lines[i].slice(Math.min(inset, indent + mark.length + 1)));
				} else {
					break;
				}
				gap = false;
			}
			block('list', { items, start: ordered ? parseInt(mark, 10) : 0, ordered });
		} else {
			// A list may follow a paragraph at once; a line that begins with a number is one only with 1.
			while (++i < lines.length && !blank(lines[i]) && !begins(lines[i], lines[i + 1]) && !/^ *(?:[-*+]|1[.)])[ \t]/.test(lines[i]));
			block('paragraph');
		}
	}
	return blocks;
}

const cells = (row) => row.trim().replace(/^\||(?<!\\)\|$/g, '').split(/(?<!\\)\|/, 64).map((text) => text.trim().replaceAll('\\|', '|'));

function render({ kind, text, depth, level, info, items, start, ordered }) {
	const inner = (lines) => parse(lines, depth + 1);
	if (kind === 'fence') {
		const code = el('code', document.createTextNode(text));
		return el('figure', el('figcaption', info || 'text', copier(() => code.textContent)), el('pre', { tabIndex: 0 }, code));
	}
	// The page's own headings are above: an answer's begin at the fourth level.
	if (kind === 'heading') return el(`h${Math.min(6, level + 3)}`, inline(text));
	if (kind === 'rule') return el('hr');
	if (kind === 'quote') return el('blockquote', inner(text.split('\n').map((line) => line.replace(QUOTE, ''))).map(render));
	if (kind === 'table') {
		const [head, , ...rows] = text.split('\n').map(cells);
		const row = (tag, values) => el('tr', head.map((_, i) => el(tag, inline(values[i] ?? ''))));
		return region('Table', el('table', el('thead', row('th', head)), el('tbody', rows.map((values) => row('td', values)))));
	}
	if (kind === 'list') {
		return el(ordered ? 'ol' : 'ul', ordered ? { start } : [], items.map((lines) => {
			lines[0] = lines[0].replace(/^\[([ xX])\] /, (_, done) => (done === ' ' ? '☐ ' : '☑ '));
			const blocks = inner(lines);
			// One paragraph, perhaps with a list below, stands without a paragraph's distance.
			return el('li', blocks.map((b, i) => (!i && b.kind === 'paragraph' && blocks.length < 3 ? inline(b.text) : render(b))).flat());
		}));
	}
	const paragraph = el('p', inline(text));
	paragraph.normalize();
	return paragraph;
}

/** Shows a text that grows: all but its last two blocks are final, and are not looked at again. */
class Growing {
	from = 0;
	tail = [];

	constructor(root) {
		this.root = root;
	}

	update(text) {
		const lines = text.slice(this.from).split('\n');
		const blocks = parse(lines);
		blocks.forEach((block, i) => {
			const old = this.tail[i];
			const same = old?.kind === block.kind && old.info === block.info;
			if (same && old.text === block.text) {
				block.node = old.node;
			} else if (same && block.kind === 'fence' && block.text.startsWith(old.text)) {
				block.node = old.node;
				block.node.querySelector('code').firstChild.appendData(block.text.slice(old.text.length));
			} else {
				block.node = render(block);
				if (old) old.node.replaceWith(block.node);
				else this.root.append(block.node);
			}
		});
		this.tail.slice(blocks.length).forEach((old) => old.node.remove());
		this.tail = blocks.slice(-2);
		if (blocks.length > 2) for (const line of lines.slice(0, this.tail[0].first)) this.from += line.length + 1;
	}
}

// ---- Conversations: trees of messages, in the browser's database ----

let database = null;
const store = (mode) => database?.transaction('conversations', mode).objectStore('conversations');
const save = (c) => { if (c?.messages.length) store('readwrite')?.put(c); };
const settled = (request) => new Promise((done, failed) => {
	request.onsuccess = () => done(request.result);
	request.onerror = () => failed(request.error);
});

const begun = () => ({ id: fresh(), title: '', system: '', changed: Date.now(), messages: [], chosen: {} });
let conversations = [];
let current = begun();
/** Answers that are being written, by conversation. */
const runs = new Map();

async function load() {
	try {
		const opening = indexedDB.open('ram-run', 1);
		opening.onupgradeneeded = () => opening.result.createObjectStore('conversations', { keyPath: 'id' });
		database = await settled(opening);
		conversations = await settled(store('readonly').getAll());
	} catch {
		notice('This browser keeps nothing here: conversations end with this tab.');
	}
	// What was being written when the page went away.
	for (const m of conversations.flatMap((c) => c.messages)) if (m.state === 'running') m.state = 'stopped';
}

/** The messages that are shown: after each one the chosen one of those that follow, or the newest. */
function path(c) {
	const after = new Map();
	for (const m of c.messages) after.has(m.parent) ? after.get(m.parent).push(m) : after.set(m.parent, [m]);
	const out = [];
	for (let at = ''; after.has(at); at = out.at(-1).message.id) {
		const versions = after.get(at);
		out.push({ message: versions.find((m) => m.id === c.chosen[at]) ?? versions.at(-1), versions });
	}
	return out;
}

function add(c, parent, role, text) {
	const message = { id: fresh(), parent, role, text };
	c.messages.push(message);
	c.chosen[parent] = message.id;
	c.title ||= text.trim().replace(/\s+/g, ' ').slice(0, 80);
	if (!conversations.includes(c)) conversations.push(c);
	c.changed = Date.now();
	return message;
}

const FORMAT = 'ram-run conversations';
function download(list) {
	const text = JSON.stringify({ format: FORMAT, version: 1, conversations: list }, null, 1);
	const href = URL.createObjectURL(new Blob([text], { type: 'application/json' }));
	el('a', { href, download: `ram-run-${new Date().toISOString().slice(0, 10)}.json` }).click();
	setTimeout(() => URL.revokeObjectURL(href), 10_000);
}

/** What a file has, if it is whole: a message's parent comes before it, so there are no circles. */
function imported(file) {
	if (file?.format !== FORMAT) throw new Error();
	const text = (value) => (typeof value === 'string' ? value : '');
	const number = (value) => (Number.isFinite(value) ? value : 0);
	return file.conversations.map((c) => {
		const known = new Set(['']);
		const messages = c.messages.map(({ id, parent, role, stats, ...m }) => {
			if (!text(id) || known.has(id) || !known.has(parent) || !['user', 'assistant'].includes(role)) throw new Error();
			known.add(id);
			return { id, parent, role, text: text(m.text), thinking: text(m.thinking), thought: number(m.thought), finish: text(m.finish), error: text(m.error),
				state: m.state === 'done' ? 'done' : 'stopped', stats: stats && Object.fromEntries(Object.entries(stats).map(([name, n]) => [name, number(n)])) };
		});
		// One that is here already stays: the file's comes beside it.
		return { id: fresh(), title: text(c.title), system: text(c.system), changed: number(c.changed), messages, chosen: { ...c.chosen } };
	});
}

function drawList() {
	conversations.sort((a, b) => b.changed - a.changed);
	$('conversations').replaceChildren(...conversations.map((c) => {
		const when = new Date(c.changed).toLocaleString([], { dateStyle: 'medium', timeStyle: 'short' });
		return el('li', el('button', { onclick: () => open(c), 'aria-current': c === current }, el('span', c.title || 'Untitled'), el('span.soft.small', runs.has(c.id) ? 'Writing' : when)));
	}));
	$('export-all').disabled = !conversations.length;
}

// ---- The transcript ----

let model = null;
/** Without a chat template the page continues texts. */
const plain = () => model !== null && !model.template;
let views = new Map();
let following = true;
// Of a low window the page itself scrolls.
const scroller = () => ($('scroller').scrollHeight > $('scroller').clientHeight + 1 ? $('scroller') : document.scrollingElement);
function follow() {
	if (following) scroller().scrollTop = 1e9;
}
function scrolled() {
	const { scrollHeight, scrollTop, clientHeight } = scroller();
	following = scrollHeight - scrollTop - clientHeight < 60;
	$('down').hidden = following;
}
for (const box of [$('scroller'), window]) box.addEventListener('scroll', scrolled, { passive: true });
$('down').onclick = () => { following = true; follow(); };

function statistics({ stats, finish, state }) {
	const parts = [];
	if (stats) {
		if (stats.queue >= 1000) parts.push(`waited ${time(stats.queue / 1e3)}`);
		parts.push(`prompt ${count(stats.prompt)}${stats.cached ? ` (${count(stats.cached)} cached)` : ''} in ${time(stats.ms / 1e3)}`);
		parts.push(`${plural(stats.tokens, 'token')} at ${rate(stats.speed)} tok/s`);
	}
	if (finish === 'length') parts.push('ended by the limit of tokens');
	if (state === 'stopped') parts.push('stopped');
	return parts.join(' · ');
}

function reading({ total, cache, processed, time_ms }) {
	const left = processed > cache ? `, ${time(((total - processed) * time_ms) / 1e3 / (processed - cache))} left` : '';
	return `Reading the prompt: ${count(processed)} of ${plural(total, 'token')}${cache ? `, ${count(cache)} cached` : ''}${left}`;
}

/** A message on the page; `draw` shows what it is now. */
function viewOf(c, m) {
	const title = el('h3', { id: `m-${m.id}` }, m.role === 'assistant' ? (model?.id ?? 'Model') : plain() ? 'Text' : 'You');
	const body = el('div.md');
	const versions = el('span.changes');
	const actions = el('div.actions', versions, copier(() => m.text));
	const article = el(`article.${m.role}`, { 'aria-labelledby': title.id }, title);
	const action = (label, onclick) => el('button.changes', label, { type: 'button', onclick });
	const drawVersions = (all) => {
		const at = all.indexOf(m);
		const arrow = (label, sign, by) => el('button', sign, { type: 'button', 'aria-label': label, disabled: !all[at + by], onclick() {
			c.chosen[m.parent] = all[at + by].id;
			save(c);
			drawPath();
			const { article } = views.get(all[at + by].id);
			(article.querySelector(`[aria-label="${label}"]:enabled`) ?? article.querySelector('[aria-label$=version]:enabled')).focus();
		} });
		if (all.length > 1) versions.replaceChildren(arrow('Earlier version', '‹', -1), `${at + 1} / ${all.length}`, arrow('Later version', '›', 1));
	};

	if (m.role === 'user') {
		body.textContent = m.text;
		const edit = action('Edit', () => {
			const area = el('textarea', { value: m.text, 'aria-label': 'Edit the message' });
			const end = () => {
				form.replaceWith(body);
				actions.hidden = false;
				edit.focus();
			};
			const form = el('form', area, el('div.row', el('button.main', 'Send'), action('Cancel', end)));
			form.onsubmit = (event) => {
				event.preventDefault();
				if (!area.value.trim() || runs.has(c.id)) return;
				end();
				send(c, m.parent, area.value);
				box.focus();
			};
			area.onkeydown = (event) => {
				if (event.key === 'Escape') end();
				if (!enters(event)) return;
				event.preventDefault();
				form.requestSubmit();
			};
			body.replaceWith(form);
			actions.hidden = true;
			area.focus();
		});
		actions.append(edit);
		article.append(body, actions);
		return { article, drawVersions, draw() {} };
	}

	const summary = el('summary');
	const thoughts = document.createTextNode('');
	const thinking = el('details.thinking', summary, el('div', thoughts));
	const bar = el('progress', { max: 1, 'aria-label': 'Reading the prompt' });
	const waits = el('span');
	const wait = el('div.waiting', bar, waits);
	const trouble = el('p.bad');
	const stats = el('p.stats');
	const more = action('Continue', () => answer(c, m, true));
	actions.append(action('Regenerate', () => send(c, m.parent, null)), more);
	article.append(thinking, body, wait, trouble, stats, actions);
	const growing = new Growing(body);
	const draw = () => {
		const run = runs.get(c.id)?.message === m ? runs.get(c.id) : null;
		thinking.hidden = !m.thinking;
		summary.textContent = run && !m.text ? 'Thinking' : m.thought ? `Thought for ${time(m.thought / 1e3)}` : 'Thoughts';
		thoughts.appendData((m.thinking ?? '').slice(thoughts.length));
		growing.update(m.text);
		wait.hidden = !run || run.pieces > 0;
		bar.hidden = !run?.progress?.total;
		if (!bar.hidden) bar.value = run.progress.processed / run.progress.total;
		waits.textContent = run?.progress ? reading(run.progress) : 'Waiting for the server';
		trouble.hidden = !m.error;
		trouble.textContent = m.error;
		const seconds = run?.first ? (performance.now() - run.first) / 1e3 : 0;
		stats.textContent = !run ? statistics(m) : seconds > 0.5 ? `about ${plural(run.pieces, 'token')} at ${rate(run.pieces / seconds)} tok/s` : '';
		stats.hidden = !stats.textContent;
		actions.hidden = run !== null;
		more.hidden = !m.text || (m.state === 'done' && m.finish !== 'length');
	};
	draw();
	return { article, drawVersions, draw };
}

/** Brings the transcript to the path, with the views that are there already. */
function drawPath() {
	const log = $('log');
	const shown = path(current).map(({ message, versions }) => {
		if (!views.has(message.id)) views.set(message.id, viewOf(current, message));
		views.get(message.id).drawVersions(versions);
		return views.get(message.id).article;
	});
	shown.forEach((article, i) => { if (log.children[i] !== article) log.insertBefore(article, log.children[i] ?? null); });
	while (log.children.length > shown.length) log.lastChild.remove();
	$('empty').hidden = shown.length > 0;
	$('title').textContent = current.title || 'New conversation';
	$('system').hidden = !current.system;
	$('system').textContent = `System prompt: ${current.system}`;
	$('export-one').disabled = $('delete').disabled = !current.messages.length;
	drawBusy();
	drawContext();
}

function drawBusy() {
	const busy = runs.has(current.id);
	$('log').classList.toggle('busy', busy);
	$('stop').hidden = !busy;
	$('send').hidden = busy;
	$('send').disabled = state !== 'ready';
	drawList();
}

function open(c) {
	current = c;
	views = new Map();
	following = true;
	$('log').replaceChildren();
	sessionStorage.current = c.id;
	drawPath();
	follow();
	scrolled();
	if (narrow.matches) panel('list', false);
}

// ---- Answers ----

const SAMPLING = [
	['temperature', 'Temperature', 0, 5, 'any'], ['top_p', 'Top p', 0, 1, 'any'], ['top_k', 'Top k', 0, 1e6, 1], ['min_p', 'Min p', 0, 1, 'any'],
	['repeat_penalty', 'Repeat penalty', 0.01, 10, 'any'], ['max_tokens', 'Most tokens', 1, 1e7, 1], ['seed', 'Seed', 0, 2 ** 53 - 1, 1],
];
const settings = JSON.parse(localStorage.settings ?? '{}');

function request(c, m, continued) {
	const all = new Map(c.messages.map((other) => [other.id, other]));
	const before = continued ? [m] : [];
	for (let at = all.get(m.parent); at; at = all.get(at.parent)) before.unshift(at);
	const body = { stream: true, return_progress: true, stream_options: { include_usage: true } };
	for (const [name] of SAMPLING) if (name in settings) body[name] = settings[name];
	if (plain()) return ['/v1/completions', { max_tokens: 256, ...body, prompt: before.map(({ text }) => text).join('') }];
	if (settings.think) body.chat_template_kwargs = { enable_thinking: settings.think === 'on' };
	const messages = before.map(({ role, text }) => ({ role, content: text }));
	if (c.system) messages.unshift({ role: 'system', content: c.system });
	return ['/v1/chat/completions', { ...body, messages }];
}

/** A message of the user below `parent`, and the answer; without a text only another answer. */
function send(c, parent, text) {
	if (runs.has(c.id)) return;
	const at = text === null ? parent : add(c, parent, 'user', text).id;
	following = true;
	answer(c, add(c, at, 'assistant', ''));
}

async function answer(c, m, continued) {
	if (runs.has(c.id)) return;
	const run = { message: m, abort: new AbortController(), progress: null, pieces: 0, first: 0, began: performance.now(), saved: 0 };
	const [where, body] = request(c, m, continued);
	Object.assign(m, { state: 'running', error: '', finish: '', stats: null });
	runs.set(c.id, run);
	if (c === current) drawPath();
	const before = machine.experts;
	const draw = () => {
		if (c !== current) return;
		views.get(m.id)?.draw();
		follow();
	};
	let asked = false;
	let next = 0;
	// Once a frame, and a fifth of the time at the most: what is long to draw is drawn less often.
	const frame = (now) => {
		if (now < next) return requestAnimationFrame(frame);
		asked = false;
		const began = performance.now();
		draw();
		next = performance.now() + 4 * (performance.now() - began);
	};
	draw();
	say('Generating');
	save(c);
	try {
		let ended = false;
		for await (const data of frames(await ask(where, body, run.abort.signal))) {
			ended = data.trim() === '[DONE]';
			if (ended) break;
			take(run, JSON.parse(data));
			if (!asked) requestAnimationFrame(frame);
			asked = true;
			if (performance.now() - run.saved > 1000) {
				// A reload finds what there was.
				run.saved = performance.now();
				save(c);
			}
		}
		if (!ended && !m.finish) throw new Refused('The connection ended before the answer did.');
		m.state = 'done';
	} catch (error) {
		m.state = run.abort.signal.aborted ? 'stopped' : 'failed';
		if (m.state === 'failed') m.error = error instanceof Refused ? error.message : 'The server cannot be reached.';
	}
	runs.delete(c.id);
	machine.took(before);
	c.changed = Date.now();
	// Not if it was deleted while it was written.
	if (conversations.includes(c)) save(c);
	draw();
	if (c === current) drawPath();
	else drawList();
	say(m.state === 'done' ? 'Answer complete' : m.state === 'stopped' ? 'Stopped' : `The answer failed: ${m.error}`);
}

function take(run, { error, prompt_progress, choices, timings: t, usage }) {
	const m = run.message;
	if (error) throw new Refused(error.message ?? 'The server failed.');
	if (prompt_progress) run.progress = prompt_progress;
	const { delta, text = delta?.content, finish_reason } = choices?.[0] ?? {};
	const now = performance.now();
	if (text || delta?.reasoning_content) {
		run.first ||= now;
		run.pieces += 1;
		if (delta?.reasoning_content) m.thinking = (m.thinking ?? '') + delta.reasoning_content;
		if (text && m.thinking) m.thought ||= now - run.first;
		m.text += text ?? '';
	}
	if (finish_reason) m.finish = finish_reason;
	if (t) {
		m.stats = { prompt: t.cache_n + t.prompt_n, cached: t.cache_n, ms: t.prompt_ms, tokens: t.predicted_n, speed: t.predicted_per_second, queue: t.queue_ms };
	} else if (usage && !m.stats) {
		// Text completions come with counts, but without times.
		const first = run.first || now;
		const { prompt_tokens: prompt, completion_tokens: tokens } = usage;
		m.stats = { prompt, cached: usage.prompt_tokens_details?.cached_tokens, ms: first - run.began, tokens, speed: (1e3 * tokens) / Math.max(1, now - first), queue: 0 };
	}
}

const stop = () => runs.get(current.id)?.abort.abort();
/** Whether a key press sends: not while an input method composes a character with it. */
const enters = (event) => event.key === 'Enter' && !event.shiftKey && !event.isComposing && event.keyCode !== 229;

const box = $('prompt');
box.oninput = () => {
	sessionStorage.draft = box.value;
	if (CSS.supports('field-sizing', 'content')) return;
	box.style.height = 'auto';
	box.style.height = `${box.scrollHeight + 2}px`;
};
box.onkeydown = (event) => {
	if (!enters(event)) return;
	event.preventDefault();
	$('composer').requestSubmit();
};
$('composer').onsubmit = (event) => {
	event.preventDefault();
	const last = path(current).at(-1)?.message;
	// A text may go on without a word of the user's.
	if (state !== 'ready' || runs.has(current.id) || (!box.value.trim() && !(plain() && last))) return;
	const text = box.value;
	box.value = '';
	box.oninput();
	send(current, last?.id ?? '', text);
};
$('stop').onclick = () => { stop(); box.focus(); };
addEventListener('keydown', (event) => {
	if (event.key === 'Escape' && !event.isComposing && !document.querySelector('dialog[open]')) stop();
});

// ---- The machine ----

const machine = {
	now: null,
	/** Tokens that took each expert, by layer: since the start, and while the last answer was written. */
	experts: null,
	last: null,
	speeds: [],

	take(now) {
		const at = performance.now();
		const tokens = now.totals.generated_tokens - (this.now?.totals.generated_tokens ?? Infinity);
		// Fewer than before: another process answers.
		if (tokens >= 0) this.speeds = [...this.speeds, (1e3 * tokens) / Math.max(1, at - this.at)].slice(-60);
		Object.assign(this, { now, at, experts: now.experts ?? null });
		this.waiting?.();
		this.draw();
		drawRouting();
	},

	/** Counts come once a second: what an answer took is known with the next. */
	took(before) {
		this.waiting = () => {
			this.waiting = null;
			this.last = this.experts?.map((layer, l) => layer?.map((n, e) => n - (before?.[l]?.[e] ?? 0))) ?? null;
		};
	},

	draw() {
		const { rss, peak, budget, parts, kv, running, queued, slots, totals } = this.now;
		const [used, kept] = [kv.active, kv.cached].map((tokens) => (kv.capacity ? (parts.kv * tokens) / kv.capacity : 0));
		const segments = [
			['Weights', parts.weights, 'c-weights'], ['KV in use', used, 'c-used'], ['KV cached', kept, 'c-kept'],
			['KV free', Math.max(0, parts.kv - used - kept), 'c-free'], ['Scratch', parts.scratch, 'c-scratch'], ['Other', parts.other, 'c-other'],
		];
		const planned = segments.reduce((sum, [, bytes]) => sum + bytes, 0);
		const share = (bytes) => `${(100 * bytes) / Math.max(1, planned, peak, budget ?? 0)}%`;
		const bar = $('memory-bar');
		if (!bar.firstChild) bar.append(...segments.map(([, , colour]) => el(`div.${colour}`)));
		segments.forEach(([name, bytes], i) => {
			bar.children[i].style.width = share(bytes);
			bar.children[i].title = `${name} ${size(bytes)}`;
		});
		$('memory-peak').style.left = share(peak);
		$('memory-budget').hidden = !budget;
		$('memory-budget').style.left = share(budget ?? 0);
		$('memory-now').textContent = size(planned) + (budget ? ` of ${size(budget)}` : ', no budget');
		facts($('memory-table'), [
			...segments.map(([name, bytes, colour]) => [name, size(bytes), colour]),
			...(budget ? [['Budget', size(budget), 'line']] : []), ['Peak, measured', size(peak), 'dots'], ['Now, measured', size(rss)],
		]);
		const speeds = this.speeds;
		const [speed, top] = [speeds.at(-1) ?? 0, Math.max(...speeds, 0)];
		$('speed-now').textContent = `${rate(speed)} tokens per second`;
		$('speed-top').textContent = top ? `highest ${rate(top)}` : '';
		$('spark').setAttribute('aria-label', `Tokens per second of the last minute: now ${rate(speed)}, highest ${rate(top)}`);
		const line = `M${speeds.map((s, i) => `${61 - speeds.length + i} ${(20 - (18 * s) / (top || 1)).toFixed(2)}`).join('L')}`;
		const [area, edge] = $('spark').children;
		edge.setAttribute('d', speeds.length ? line : '');
		area.setAttribute('d', speeds.length ? `${line}V20H${61 - speeds.length}Z` : '');
		facts($('work-table'), [
			['Running', `${running} of ${slots}`], ['Waiting', count(queued)], ['Answered', count(totals.ended)], ['Cancelled', count(totals.cancelled)],
			['Failed', count(totals.failed)], ['Prompt tokens', count(totals.prompt_tokens)], ['of them cached', count(totals.cached_tokens)],
			['Generated tokens', count(totals.generated_tokens)],
		]);
	},
};

function drawContext() {
	const stats = path(current).findLast(({ message }) => message.stats)?.message.stats;
	const used = stats ? stats.prompt + stats.tokens : 0;
	if (!model) return;
	$('context-now').textContent = `${count(used)} of ${plural(model.context, 'token')}`;
	$('context-bar').style.width = `${Math.min(100, (100 * used) / model.context)}%`;
}

function drawModel() {
	const { id, meta, context, template, params } = model;
	const bits = meta.bits_per_weight.toFixed(2);
	$('model').textContent = id;
	document.title = `${id} · ram-run`;
	facts($('model-table'), [
		['Name', id], ['Parameters', many(meta.n_params)], ['Weights', size(meta.size)], ['Bits per weight', bits], ['Context', plural(context, 'token')], ['Plan', meta.plan],
	]);
	$('empty').replaceChildren(
		el('p.lead', plain() ? 'Begin a text' : 'Ask something'),
		el('p.soft', `${id}: ${many(meta.n_params)} parameters in ${size(meta.size)}, ${bits} bits each. `,
			plain() ? 'It has no chat template: it continues what you write.' : 'What you write goes to this server and nowhere else.'),
	);
	$('prompt-label').textContent = plain() ? 'Text to continue' : 'Message';
	box.placeholder = plain() ? 'Write a text to continue' : 'Write a message';
	$('think-row').hidden = !/enable_thinking/.test(template ?? '');
	for (const [name] of SAMPLING) $(`set-${name}`).placeholder = name in params ? +params[name].toFixed(3) : name === 'seed' ? 'random' : 'as fits';
}

// ---- The plan ----

let plan = null;
let layerOpen = null;
let routing = [];
const KINDS = ['q', 'k', 'v', 'o', 'router', 'shared_router', 'shared_gate', 'shared_up', 'shared_down', 'gate', 'up', 'down'];
const small = (n) => (n ? n.toPrecision(2) : '0');
const cell = (text) => el('td', text);
const title = (kind) => el('th', { scope: 'row' }, kind);
const region = (label, table) => el('div.scroll', { tabIndex: 0, role: 'region', 'aria-label': label }, table);
const grid = (label, heads, rows) => region(label, el('table.grid', { 'aria-label': label }, el('thead', el('tr', heads.map((name) => el('th', { scope: 'col' }, name.replace('_', ' '))))), el('tbody', rows)));
function heat({ bytes, n, formats } = {}) {
	if (!n) return cell('');
	const b = (8 * bytes) / n;
	// Eight steps from 2 to 16 bits, as many for each doubling.
	const step = Math.max(0, Math.min(7, Math.round((7 / 3) * (Math.log2(b) - 1))));
	return el(`td.heat.b${step}`, b.toFixed(1), { title: `${b.toFixed(3)} bits: ${[...formats].join(', ')}` });
}

/** Sums of entries by what `of` says of each. */
function sums(entries, of) {
	const all = new Map();
	for (const e of entries) {
		const n = e.shape.reduce((product, side) => product * side, 1);
		const sum = all.get(of(e)) ?? { bytes: 0, n: 0, error: 0, formats: new Set() };
		all.set(of(e), sum);
		sum.error = (sum.error * sum.n + e.error * n) / (sum.n + n);
		sum.bytes += e.bytes;
		sum.n += n;
		sum.formats.add(e.format);
	}
	return all;
}

function command() {
	const { memory, weight_bytes, method, context, kv } = plan;
	const [name, format] = method.split(' ');
	const how = { uniform: ` --uniform ${format}`, dense: ' --dense', kl: '' }[name] ?? ` --objective ${name}`;
	return `ram-run serve ${memory.budget ? `--budget ${memory.budget}` : `--weights ${weight_bytes}`}${how} --ctx ${context} --kv ${kv}`;
}

async function showPlan() {
	if (plan || !model) return;
	try {
		plan = await (await ask('/ram/plan')).json();
		drawPlan();
	} catch (error) {
		$('plan-body').replaceChildren(el('p.bad', `The plan cannot be read: ${error.message}`));
	}
}

function drawPlan() {
	const { entries, memory } = plan;
	const matrices = entries.filter((e) => e.kind !== 'norm' && e.kind !== 'bias');
	const [layered, outer] = [matrices.filter((e) => e.layer !== null), matrices.filter((e) => e.layer === null)];
	const kinds = [...new Set([...KINDS, ...layered.map((e) => e.kind)])].filter((kind) => layered.some((e) => e.kind === kind));
	const [by, whole] = [sums(layered, (e) => `${e.layer} ${e.kind}`), sums(layered, (e) => e.layer)];
	const rows = [...whole].map(([l, { bytes }]) => {
		const button = el('button', `Layer ${l}`, { id: `layer-${l}`, 'aria-expanded': false, 'aria-controls': 'layer' });
		// A click on the button comes here too.
		return el('tr.layer', { onclick: () => (layerOpen === l ? closeLayer() : openLayer(l)) }, title(button), kinds.map((kind) => heat(by.get(`${l} ${kind}`))), cell(size(bytes)));
	});
	const others = [...sums(outer, (e) => e.kind)].map(([kind, sum]) => el('tr', title(kind), heat(sum), cell([...sum.formats].join(', ')), cell(size(sum.bytes)), cell(small(sum.error))));
	const byKind = [...sums(entries, (e) => e.kind)].sort((a, b) => b[1].bytes - a[1].bytes);
	const bars = byKind.map(([kind, { bytes, n }]) => {
		const bar = el('span.share');
		bar.style.width = `${(100 * bytes) / byKind[0][1].bytes}%`;
		return el('tr', title(kind.replace('_', ' ')), el('td.share-cell', bar), cell(size(bytes)), cell(((8 * bytes) / n).toFixed(2)));
	});
	const told = {
		Plan: plan.fingerprint, 'Bits per weight': plan.bits_per_weight.toFixed(3), Weights: size(plan.weight_bytes), Parameters: many(plan.parameters),
		'Expected KL divergence': plan.expected_kl == null ? 'unknown' : `${plan.expected_kl.toPrecision(3)} nats`, 'Chosen by': plan.method,
		Memory: size(memory.total) + (memory.budget ? ` of ${size(memory.budget)}` : ''), 'Keys and values': `${plan.kv}, ${plural(plan.context, 'token')}`,
	};
	const map = 'Bits per weight, by layer and kind';
	$('plan-body').replaceChildren(
		el('dl.numbers', Object.entries(told).map(([name, value]) => el('div', el('dt', name), el('dd', value)))),
		el('div.command', el('code', command()), copier(command)),
		el('p.soft.small', 'With the same --model, this line makes the same plan.'),
		el('div.maps',
			el('div', el('h3', map), grid(map, ['layer', ...kinds, 'bytes'], rows), el('p.soft.small', 'The mean over the experts of a layer. A layer opens to its tensors.')),
			el('div', { id: 'layer' })),
		el('h3', 'Outside of the layers'), grid('Outside of the layers', ['kind', 'bits', 'format', 'bytes', 'relative error'], others),
		el('h3', 'Bytes by kind'), grid('Bytes by kind', ['kind', 'share', 'bytes', 'bits'], bars),
	);
}

function closeLayer() {
	const button = $(`layer-${layerOpen}`);
	button.setAttribute('aria-expanded', false);
	$('layer').replaceChildren();
	layerOpen = null;
	button.focus();
}

function openLayer(l) {
	if (layerOpen !== null) closeLayer();
	layerOpen = l;
	routing = [];
	$(`layer-${l}`).setAttribute('aria-expanded', true);
	const own = plan.entries.filter((e) => e.layer === l);
	const head = el('h3', `Layer ${l}`, { tabIndex: -1 });
	const rows = [...sums(own.filter((e) => e.expert === null), (e) => e)].map(([e, sum]) => {
		const name = e.name.replace(/^.*layers\.\d+\./, '').replace(/\.weight$/, '');
		return el('tr', title(name), heat(sum), cell(e.format), cell(e.shape.join(' × ')), cell(size(e.bytes)), cell(small(e.error)));
	});
	const parts = [
		el('div.row', head, el('button', 'Close', { onclick: closeLayer })),
		grid(`Tensors of layer ${l}`, ['tensor', 'bits', 'format', 'shape', 'bytes', 'relative error'], rows),
	];
	const experts = own.filter((e) => e.expert !== null);
	if (experts.length) {
		const by = sums(experts, (e) => `${e.expert} ${e.kind}`);
		const kinds = KINDS.filter((kind) => experts.some((e) => e.kind === kind));
		const table = [...sums(experts, (e) => e.expert)].map(([x, sum]) => {
			const counts = [el('td.fill'), el('td.fill')];
			routing.push({ x, counts });
			return el('tr', title(`${x}`), kinds.map((kind) => heat(by.get(`${x} ${kind}`))), cell(size(sum.bytes)), cell(small(sum.error)), counts);
		});
		parts.push(el('h3', `Experts of layer ${l}`),
			grid(`Experts of layer ${l}`, ['expert', ...kinds, 'bytes', 'relative error', 'tokens since the start', 'in the last answer'], table),
			el('p.soft.small', 'How many tokens the router gave to each expert, as it happens. Others who ask this server at the same time count too.'));
	}
	$('layer').replaceChildren(...parts);
	drawRouting();
	head.focus();
}

function drawRouting() {
	if (layerOpen === null) return;
	[machine.experts, machine.last].forEach((all, which) => {
		const taken = all?.[layerOpen] ?? [];
		for (const { x, counts } of routing) {
			counts[which].textContent = x in taken ? count(taken[x]) : '–';
			counts[which].style.backgroundSize = `${(100 * (taken[x] ?? 0)) / Math.max(1, ...taken)}% 100%`;
		}
	});
}

// ---- The shell: tabs, side regions, colours, dialogs ----

const tabs = [$('tab-chat'), $('tab-plan')];
function view(name) {
	document.body.dataset.view = name;
	for (const tab of tabs) {
		const chosen = tab.id === `tab-${name}`;
		tab.setAttribute('aria-selected', chosen);
		tab.tabIndex = chosen ? 0 : -1;
		$(tab.getAttribute('aria-controls')).hidden = !chosen;
	}
	if (name === 'plan') showPlan();
	if (narrow.matches) for (const side of ['list', 'machine']) panel(side, false);
}
tabs.forEach((tab, i) => {
	tab.onclick = () => view(tab.getAttribute('aria-controls'));
	tab.onkeydown = ({ key }) => {
		if (key !== 'ArrowRight' && key !== 'ArrowLeft') return;
		tabs[1 - i].focus();
		tabs[1 - i].click();
	};
});

/** Under 60 rem one region at a time, under 80 one beside the main one. */
const narrow = matchMedia('(max-width: 59.99rem)');
const middle = matchMedia('(max-width: 79.99rem)');
function panel(name, shown) {
	document.body.toggleAttribute(`data-${name}`, shown);
	$(`show-${name}`).setAttribute('aria-expanded', shown);
	if (shown && middle.matches) panel(name === 'list' ? 'machine' : 'list', false);
}
function panels() {
	panel('list', !middle.matches);
	panel('machine', !narrow.matches);
}
for (const media of [narrow, middle]) media.addEventListener('change', panels);
for (const name of ['list', 'machine']) {
	$(`show-${name}`).onclick = () => {
		const shown = $(`show-${name}`).getAttribute('aria-expanded') !== 'true';
		// The list belongs to the chat.
		if (name === 'list' && shown) view('chat');
		panel(name, shown);
	};
}

const THEMES = { auto: 'light', light: 'dark', dark: 'auto' };
function theme(name) {
	document.documentElement.dataset.theme = localStorage.theme = name;
	$('theme').title = `Colours: ${name === 'auto' ? "the system's" : name}`;
	$('theme').setAttribute('aria-label', $('theme').title);
}
theme(localStorage.theme in THEMES ? localStorage.theme : 'auto');
$('theme').onclick = () => {
	theme(THEMES[localStorage.theme]);
	say($('theme').title);
};

$('skip').onclick = (event) => {
	event.preventDefault();
	(document.body.dataset.view === 'plan' ? $('plan') : box).focus();
};
$('new').onclick = () => { open(begun()); box.focus(); };
$('delete').onclick = () => {
	const c = current;
	stop();
	conversations = conversations.filter((other) => other !== c);
	store('readwrite')?.delete(c.id);
	open(conversations[0] ?? begun());
	notice(`Deleted: ${c.title || 'Untitled'}`, () => {
		conversations.push(c);
		save(c);
		open(c);
	});
};
$('export-one').onclick = () => download([current]);
$('export-all').onclick = () => download(conversations);
$('import').onclick = () => $('file').click();
$('file').onchange = async () => {
	try {
		const added = imported(JSON.parse(await $('file').files[0].text()));
		conversations.push(...added);
		added.forEach(save);
		if (added.length) open(added[0]);
		notice(`Imported: ${plural(added.length, 'conversation')}`);
	} catch {
		notice('Nothing is imported: this is no whole file of conversations.');
	}
	$('file').value = '';
};

$('sampling').append(...SAMPLING.map(([name, label, min, max, step]) =>
	el('div', el('label', label, { htmlFor: `set-${name}` }), el('input', { id: `set-${name}`, type: 'number', min, max, step, autocomplete: 'off' }))));
$('open-settings').onclick = () => {
	$('set-title').value = current.title;
	$('set-system').value = current.system;
	$('set-think').value = settings.think ?? '';
	for (const [name] of SAMPLING) $(`set-${name}`).value = settings[name] ?? '';
	$('settings').showModal();
};
$('settings-form').oninput = () => {
	current.title = $('set-title').value;
	current.system = $('set-system').value.trim();
	settings.think = $('set-think').value;
	for (const [name] of SAMPLING) {
		const field = $(`set-${name}`);
		if (!field.checkValidity()) continue;
		if (field.value === '') delete settings[name];
		else settings[name] = field.valueAsNumber;
	}
	localStorage.settings = JSON.stringify(settings);
	save(current);
};
$('settings-form').onsubmit = (event) => { event.preventDefault(); $('settings').close(); };
$('settings-close').onclick = () => $('settings').close();
$('settings').onclose = drawPath;
$('reset').onclick = () => {
	for (const [name] of SAMPLING) $(`set-${name}`).value = '';
	$('set-think').value = '';
	$('settings-form').oninput();
};

// ---- How the server is ----

/** starting, or one of these */
let state = 'starting';
let unlock = () => {};
const STATES = {
	ready: [], loading: ['Preparing the model'], locked: ['This server wants a key.'], lost: ['The server cannot be reached.', 'Trying again.'],
	draining: ['The server is about to end.', 'It takes no more requests.'],
};
function become(now, text, done) {
	const [title, more = ''] = STATES[now];
	if (now !== state) say(title ?? 'Ready');
	state = now;
	$('banner').hidden = !title;
	$('banner-title').textContent = title;
	$('banner-text').textContent = text ?? more;
	$('banner-done').hidden = now !== 'loading';
	$('banner-done').value = done ?? 0;
	$('banner-key').hidden = now !== 'locked';
	drawBusy();
}

async function untilReady() {
	for (;;) {
		const told = await fetch('/health').then((response) => response.json()).catch(() => null);
		if (told?.status === 'ok') return;
		if (told?.status === 'loading') become('loading', `${told.stage}, ${Math.floor(100 * told.done)} %`, told.done);
		else become(told?.status === 'draining' ? 'draining' : 'lost');
		await sleep(told?.status === 'loading' ? 500 : 2000);
	}
}

async function meet() {
	const [models, props] = await Promise.all(['/v1/models', '/props'].map(async (where) => (await ask(where)).json()));
	const { id, max_model_len: context, meta } = models.data[0];
	const other = model?.meta.plan !== meta.plan;
	model = { id, context, meta, template: props.chat_template, params: props.default_generation_settings.params };
	drawModel();
	drawContext();
	if (!other) return;
	plan = layerOpen = null;
	if (document.body.dataset.view === 'plan') showPlan();
}

async function watch() {
	for (;;) {
		// A machine that slept leaves a connection open that says nothing more.
		const abort = new AbortController();
		let timer;
		try {
			await untilReady();
			await meet();
			become('ready');
			for await (const data of frames(await ask('/ram/events', null, abort.signal))) {
				clearTimeout(timer);
				timer = setTimeout(() => abort.abort(), 20_000);
				machine.take(JSON.parse(data));
			}
		} catch (error) {
			if (error instanceof NoKey) {
				become('locked');
				await new Promise((done) => { unlock = done; });
			}
		}
		clearTimeout(timer);
		await sleep(1000);
	}
}
$('banner-key').onclick = () => unlock();
addEventListener('pagehide', () => conversations.filter((c) => runs.has(c.id)).forEach(save));

panels();
view('chat');
box.value = sessionStorage.draft ?? '';
box.oninput();
await load();
open(conversations.find((c) => c.id === sessionStorage.current) ?? current);
if (!narrow.matches) box.focus();
watch();

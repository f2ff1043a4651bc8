// The page of `ram-run serve`: a chat, the machine, the plan. It asks its own server only, and what a model says
// becomes texts and elements made here, never markup.

// ---- Small things ----
const {body} = document;
const $ = id => document.getElementById(id);
const put = (id, text) => {$(id).textContent = text;};
const show = (id, is) => {$(id).hidden = !is;};
/** `el('p.soft', 'text', {title: 'x'}, [more])`: children, lists of them and properties as they come. */
function el(what, ...rest) {
	const [tag, ...classes] = what.split('.');
	const node = document.createElement(tag);
	if (classes.length) node.className = classes.join(' ');
	for (const part of rest.flat(2)) {
		if (typeof part === 'string' || part instanceof Node) node.append(part);
		else for (const name in part) name in node ? (node[name] = part[name]) : node.setAttribute(name, part[name]);
	}
	return node;
}

const count = n => Math.round(n).toLocaleString('en');
const plural = (n, word) => `${count(n)} ${word}${n === 1 ? '' : 's'}`;
const rate = n => (n >= 100 ? count(n) : n.toFixed(1));
const time = s => (s < 1 ? `${Math.round(1e3 * s)} ms` : s < 10 ? `${s.toFixed(1)} s` : s < 120 ? `${Math.round(s)} s` : `${Math.round(s / 60)} min`);
/** Decimal, as on the command line. */
const size = n => (n >= 1e9 ? `${(n / 1e9).toFixed(2)} GB` : n >= 1e6 ? `${(n / 1e6).toFixed(1)} MB` : `${(n / 1e3).toFixed(1)} kB`);
const many = n => n.toLocaleString('en', {notation: 'compact', compactDisplay: 'long', maximumFractionDigits: 1});
const clock = () => performance.now();
const percent = (part, whole) => `${Math.min(100, (100 * part) / (whole || 1))}%`;
const fresh = () => Date.now().toString(36) + Math.random().toString(36).slice(2);
/** For whoever hears the page: the transcript itself is silent. */
const say = text => put('status', text);

function notice(text, undo) {
	put('notice-text', text); show('notice-undo', undo);
	$('notice-undo').onclick = () => {show('notice', false); undo();}; show('notice', true);
}

function copier(text) {
	const button = el('button', 'Copy');
	button.onclick = async () => {
		// Over plain HTTP from another machine there is no clipboard.
		const done = await navigator.clipboard?.writeText(text()).then(() => 'Copied', () => {}) ?? 'Not allowed here';
		button.textContent = done; say(done); setTimeout(() => {button.textContent = 'Copy';}, 1500);
	};
	return button;
}

/** Rows of a table of facts; what has not changed stays, and so does a selection in it. */
function facts(id, rows) {
	const table = $(id);
	rows.forEach(([name, value, swatch], i) => {
		const row = table.rows[i] ?? table.appendChild(el('tr', el('th', {scope: 'row'}), el('td')));
		const [head, cell] = row.cells;
		if (head.textContent !== name) head.replaceChildren(swatch ? el(`span.swatch.${swatch}`) : '', name);
		if (cell.textContent !== value) cell.textContent = value;
	});
}

// ---- The server ----
/** What the user is told of a request that failed. */
class Refused extends Error {}
class NoKey extends Refused {}

let key = '';
function takeKey() {
	const given = /^#key=(.+)$/.exec(location.hash);
	if (given) {
		sessionStorage.apiKey = decodeURIComponent(given[1]);
		// Not for the history, nor for whoever looks at the screen.
		history.replaceState(null, '', location.pathname);
	}
	key = sessionStorage.apiKey ?? '';
}

/** One dialog, however many requests wait for the key. */
let asking = null;
function wantKey(used) {
	if (key !== used) return null;
	return (asking ??= new Promise((given, failed) => {
		show('key-refused', used); $('key').showModal();
		$('key-form').onsubmit = event => {
			event.preventDefault(); key = sessionStorage.apiKey = $('key-text').value.trim(); $('key-form').reset();
			given(); $('key').close();
		};
		$('key').onclose = () => {
			asking = null; failed(new NoKey('This server wants a key.'));
		};
	}));
}

async function ask(path, body, signal) {
	for (;;) {
		const used = key;
		const headers = {...(used && {authorization: `Bearer ${used}`}), ...(body && {'content-type': 'application/json'})};
		const response = await fetch(path, {method: body ? 'POST' : 'GET', headers, body: body && JSON.stringify(body), signal});
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
	const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
	for (let rest = ''; ; ) {
		const {done, value} = await reader.read();
		if (done) return;
		const parts = (rest + value).split('\n\n');
		rest = parts.pop();
		for (const part of parts) if (part.startsWith('data:')) yield part.slice(5).trim();
	}
}

// ---- Markdown ----
const safe = url => /^https?:\/\/\S+$/i.test(url);
const link = (url, ...children) => el('a', {href: url, target: '_blank', rel: 'noopener noreferrer'}, ...children);
const MARKS = /\\[!-/:-@[-`{-~]|`+|\*+|_+|~~|!?\[|\]|https?:\/\/[^\s<>"]+|\n/gi;
// All is bounded: a long answer may consist of beginnings.
const TARGET = /\(\s{0,9}<?([^\s<>()]{0,2000}(?:\([^\s<>()]{0,500}\)[^\s<>()]{0,2000}){0,4})>?(?:\s{1,9}"[^"]{0,300}")?\s{0,9}\)/y;
/** Delimiters that may still be closed; this also bounds how deep elements nest. */
const OPEN = 32;

/** Inline Markdown in one pass: pieces in order, and a stack of those delimiters among them that are still open. */
function inline(text) {
	const out = [], open = [], endless = new Set(), marks = new RegExp(MARKS);
	const last = is => open.findLastIndex(({mark}) => is(mark));
	let from = 0;
	// No paragraph is that long: what follows is text.
	for (let found; from < 2e4 && (found = marks.exec(text)); ) {
		const [mark] = found;
		const at = found.index;
		let to = at + mark.length;
		let piece = mark;
		out.push(text.slice(from, at));
		if (mark === '\n') {
			piece = el('br');
		} else if (mark[0] === '\\') {
			piece = mark[1];
		} else if (mark[0] === '`') {
			const end = endless.has(mark) ? -1 : to + text.slice(to).search(new RegExp(`(?<!\`)${mark}(?!\`)`));
			if (end < to) {
				endless.add(mark);
			} else {
				piece = el('code', text.slice(to, end).replaceAll('\n', ' ').replace(/^ (.*\S.*) $/, '$1'));
				to = end + mark.length;
			}
		} else if (/^h/i.test(mark)) {
			const url = mark.replace(/[.,;:!?'*_~`\]]+$/, '').replace(/^([^(]*?)\)+$/, '$1');
			piece = safe(url) ? link(url, url) : url; to = at + url.length;
		} else if (mark.endsWith('[')) {
			open.push({mark, at: out.length});
		} else if (mark === ']') {
			const i = last(opener => opener.endsWith('['));
			TARGET.lastIndex = to;
			const target = i < 0 ? null : TARGET.exec(text);
			if (target && safe(target[1])) {
				// A picture would be a request to somebody else: it is a link.
				piece = link(target[1], open[i].mark[1] ? 'Image: ' : '', out.splice(open[i].at).slice(1));
				piece.querySelectorAll('a').forEach(inner => inner.replaceWith(...inner.childNodes));
				to = TARGET.lastIndex;
			}
			if (i >= 0) open.length = i;
		} else {
			// Emphasis: what stands beside a run says whether it opens or closes.
			const [before, after] = [text[at - 1] ?? ' ', text[to] ?? ' '];
			const within = mark[0] === '_' && [before, after].every(c => /[\p{L}\p{N}]/u.test(c));
			let left = mark.length > 3 || within ? 0 : mark.length;
			while (left && /\S/.test(before)) {
				const i = last(opener => opener[0] === mark[0]);
				if (i < 0) break;
				const opener = open[i], used = mark === '~~' || Math.min(left, opener.left) > 1 ? 2 : 1;
				const inner = out.splice(opener.at + 1);
				opener.left -= used; out[opener.at] = opener.mark.slice(0, opener.left);
				out.push(el(mark === '~~' ? 'del' : used > 1 ? 'strong' : 'em', inner));
				open.length = opener.left ? i + 1 : i; left -= used; piece = mark.slice(0, left);
			}
			if (left && /\S/.test(after)) open.push({mark, left, at: out.length});
		}
		out.push(piece);
		if (open.length > OPEN) open.shift();
		from = marks.lastIndex = to;
	}
	out.push(text.slice(from));
	// Neighbouring texts are one.
	return out.reduce((all, piece) => {
		if (typeof piece === 'string' && typeof all.at(-1) === 'string') all.push(all.pop() + piece);
		else all.push(piece);
		return all;
	}, []);
}

const FENCE = /^ {0,3}(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})[ \t]+(\S.*)$/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?:[ \t]{1,4}|$)/;
const COLUMNS = /^\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?$/;
const QUOTE = /^ {0,3}> ?/;
const columns = (line, next) => line.includes('|') && next?.includes('|') && COLUMNS.test(next.trim());
const begins = (line, next) => [FENCE, HEADING, RULE, QUOTE].some(start => start.test(line)) || columns(line, next);

/** Blocks, each with its first line: nothing before that has a say in what the block is. */
function parse(lines, depth = 0) {
	const blocks = [];
	for (let i = 0; i < lines.length; ) {
		const first = i++, line = lines[first];
		const block = (kind, more) => blocks.push({kind, first, depth, text: lines.slice(first, i).join('\n'), ...more});
		let found;
		if (!line.trim()) continue;
		if ((found = FENCE.exec(line))) {
			const [, fence, info] = found;
			const end = new RegExp(`^ {0,3}${fence[0]}{${fence.length},}[ \t]*$`);
			while (i < lines.length && !end.test(lines[i])) i++;
			block('fence', {info: info.trim().split(/\s/)[0], text: lines.slice(first + 1, i++).join('\n')});
		} else if ((found = HEADING.exec(line))) {
			block('heading', {level: found[1].length, text: found[2].replace(/ #+[ \t]*$/, '')});
		} else if (RULE.test(line)) {
			block('rule');
		} else if (QUOTE.test(line) && depth < 6) {
			while (QUOTE.test(lines[i] ?? '')) i++;
			block('quote');
		} else if (columns(line, lines[i])) {
			while (lines[i]?.includes('|')) i++;
			block('table');
		} else if ((found = ITEM.exec(line)) && depth < 6) {
			const [, {length: indent}, mark] = found;
			const ordered = /\d/.test(mark), items = [];
			i = first;
			for (let gap = false; i < lines.length; i++) {
				const inset = lines[i].search(/\S/), item = ITEM.exec(lines[i]), above = gap;
				gap = inset < 0;
				if (gap) continue;
				if (item && inset < indent + 2 && !RULE.test(lines[i])) {
					// A long list is several, so that not all of it is drawn again with each word.
					if (/\d/.test(item[2]) !== ordered || items.length > 49) break;
					items.push([lines[i].slice(item[0].length)]);
				} else if (inset > indent || (!above && !begins(lines[i], lines[i + 1]))) {
					if (above) items.at(-1).push('');
					items.at(-1).push(lines[i].slice(Math.min(inset, indent + mark.length + 1)));
				} else break;
			}
			block('list', {items, ordered, start: parseInt(mark, 10)});
		} else {
			// A list may follow a paragraph at once; a line that begins with a number is one only with 1.
			while (lines[i]?.trim() && !begins(lines[i], lines[i + 1]) && !/^ *(?:[-*+]|1[.)])[ \t]/.test(lines[i])) i++;
			block('paragraph');
		}
	}
	return blocks;
}

const cells = row => row.trim().replace(/^\||(?<!\\)\|$/g, '').split(/(?<!\\)\|/, 64).map(text => text.trim().replaceAll('\\|', '|'));

function render({kind, text, depth, level, info, items, start, ordered}) {
	const inner = lines => parse(lines, depth + 1);
	if (kind === 'fence') {
		const code = el('code', document.createTextNode(text));
		const node = el('figure', el('figcaption', info || 'text', copier(() => code.textContent)), el('pre', {tabIndex: 0}, code));
		node.grow = now => code.firstChild.appendData(now.slice(code.firstChild.length));
		return node;
	}
	// The page's own headings are above: an answer's begin at the fourth level.
	if (kind === 'heading') return el(`h${Math.min(6, level + 3)}`, inline(text));
	if (kind === 'rule') return el('hr');
	if (kind === 'quote') return el('blockquote', inner(text.split('\n').map(line => line.replace(QUOTE, ''))).map(render));
	if (kind === 'table') {
		const [head, , ...rows] = text.split('\n').map(cells);
		const row = (tag, values) => el('tr', head.map((_, i) => el(tag, inline(values[i] ?? ''))));
		const all = el('tbody', rows.map(values => row('td', values)));
		const node = region('Table', el('table', el('thead', row('th', head)), all));
		// The last row may have been half a row.
		if (rows.length) node.grow = now => {
			const more = now.split('\n').slice(all.rows.length + 1).map(cells);
			all.lastChild.remove(); all.append(...more.map(values => row('td', values)));
		};
		return node;
	}
	if (kind === 'list') {
		return el(ordered ? 'ol' : 'ul', ordered ? {start} : [], items.map(([line, ...more]) => {
			const blocks = inner([line.replace(/^\[([ xX])\] /, (_, done) => (done === ' ' ? '☐ ' : '☑ ')), ...more]);
			// One paragraph, perhaps with a list below, stands without a paragraph's distance.
			return el('li', blocks.map((b, i) => (!i && b.kind === 'paragraph' && blocks.length < 3 ? inline(b.text) : render(b))));
		}));
	}
	return el('p', inline(text));
}

/** Shows a text that grows: all but its last two blocks are final, and are not looked at again. */
function growing(root) {
	let from = 0;
	let tail = [];
	return text => {
		const lines = text.slice(from).split('\n'), blocks = parse(lines);
		blocks.forEach((block, i) => {
			const old = tail[i], same = old?.kind === block.kind && old.info === block.info;
			const grows = same && old.node.grow && block.text.startsWith(old.text);
			if (grows) old.node.grow(block.text);
			block.node = grows || (same && old.text === block.text) ? old.node : render(block);
			if (!old) root.append(block.node);
			else if (old.node !== block.node) old.node.replaceWith(block.node);
		});
		tail.slice(blocks.length).forEach(old => old.node.remove()); tail = blocks.slice(-2);
		if (blocks.length > 2) for (const line of lines.slice(0, tail[0].first)) from += line.length + 1;
	};
}

// ---- Conversations: trees of messages, in the browser's database ----
let database = null;
const store = mode => database?.transaction('conversations', mode).objectStore('conversations');
const save = c => {if (conversations.includes(c)) store('readwrite')?.put(c);};
const settled = request => new Promise((done, failed) => {
	request.onsuccess = () => done(request.result); request.onerror = () => failed(request.error);
});
const begun = () => ({id: fresh(), title: '', system: '', changed: Date.now(), messages: [], chosen: {}});
let conversations = [];
let current = begun();
/** Answers that are being written, by conversation. */
const runs = new Map();

async function load() {
	try {
		const opening = indexedDB.open('ram-run', 1);
		opening.onupgradeneeded = () => opening.result.createObjectStore('conversations', {keyPath: 'id'});
		database = await settled(opening); conversations = await settled(store('readonly').getAll());
	} catch {
		notice('This browser keeps nothing here: conversations end with this tab.');
	}
	// What was being written when the page went away.
	for (const m of conversations.flatMap(c => c.messages)) if (m.state === 'running') m.state = 'stopped';
}

/** The messages that are shown: after each one the chosen one of those that follow, or the newest. */
function path(c) {
	const after = Map.groupBy(c.messages, m => m.parent);
	const out = [];
	for (let at = '', versions; (versions = after.get(at)); at = out.at(-1).message.id) {
		out.push({message: versions.find(m => m.id === c.chosen[at]) ?? versions.at(-1), versions});
	}
	return out;
}

function add(c, parent, role, text) {
	const message = {id: fresh(), parent, role, text};
	c.messages.push(message); c.chosen[parent] = message.id;
	c.title ||= text.trim().replace(/\s+/g, ' ').slice(0, 80); c.changed = Date.now();
	if (!conversations.includes(c)) conversations.push(c);
	return message;
}

function download(list) {
	const text = JSON.stringify({format: 'ram-run conversations', version: 1, conversations: list}, null, 1);
	const href = URL.createObjectURL(new Blob([text], {type: 'application/json'}));
	el('a', {href, download: `ram-run-${new Date().toISOString().slice(0, 10)}.json`}).click();
}

/** What a file has, or an error: what is no text has no `normalize`, and a parent that comes before is in no circle. */
function imported(file) {
	const text = value => value.normalize();
	return file.conversations.map(({title, system, chosen, messages}) => {
		const known = new Set(['']);
		const checked = messages.map(({id, parent, role, thinking = '', ...m}) => {
			if (known.has(id) || !known.has(parent)) throw new Error();
			known.add(id);
			return {id: text(id), parent, role: role === 'user' ? role : 'assistant', text: text(m.text), thinking: text(thinking), state: 'done'};
		});
		return {...begun(), title: text(title), system: text(system), chosen: {...chosen}, messages: checked};
	});
}

function drawList() {
	conversations.sort((a, b) => b.changed - a.changed);
	const list = $('conversations'), within = list.contains(document.activeElement);
	list.replaceChildren(...conversations.map(c => {
		const when = new Date(c.changed).toLocaleString([], {dateStyle: 'medium', timeStyle: 'short'});
		return el('li', el('button', {onclick: () => open(c), 'aria-current': c === current}, el('span', c.title || 'Untitled'), el('span.soft.small', runs.has(c.id) ? 'Writing' : when)));
	}));
	if (within) list.querySelector('[aria-current=true]')?.focus();
	$('export-all').disabled = !conversations.length;
}

// ---- The transcript ----
let model = null;
/** Without a chat template the page continues texts. */
const plain = () => model && !model.template;
let views = new Map();
let following = true;
// Of a low window the page itself scrolls.
const scroller = () => ($('scroller').scrollHeight > $('scroller').clientHeight + 1 ? $('scroller') : document.scrollingElement);
const follow = () => {if (following) scroller().scrollTop = 1e9;};
const scrolled = () => {
	const {scrollHeight, scrollTop, clientHeight} = scroller();
	following = scrollHeight - scrollTop - clientHeight < 60;
};

function statistics({stats, finish, state}) {
	const parts = [];
	if (stats?.queue >= 1000) parts.push(`waited ${time(stats.queue / 1e3)}`);
	if (stats) {
		parts.push(`prompt ${count(stats.prompt)}${stats.cached ? ` (${count(stats.cached)} cached)` : ''} in ${time(stats.ms / 1e3)}`);
		parts.push(`${plural(stats.tokens, 'token')} at ${rate(stats.speed)} tok/s`);
	}
	if (finish === 'length') parts.push('ended by the limit of tokens');
	if (state === 'stopped') parts.push('stopped');
	return parts.join(' · ');
}

function reading({total, cache, processed, time_ms}) {
	const left = processed > cache ? `, ${time(((total - processed) * time_ms) / 1e3 / (processed - cache))} left` : '';
	return `Reading the prompt: ${count(processed)} of ${plural(total, 'token')}${cache ? `, ${count(cache)} cached` : ''}${left}`;
}

/** A message on the page; `draw` shows what it is now. */
function viewOf(c, m) {
	const who = m.role === 'assistant' ? (model?.id ?? 'Model') : plain() ? 'Text' : 'You';
	const text = el('div.md'), versions = el('span.changes');
	const actions = el('div.actions', versions, copier(() => m.text));
	const article = el(`article.${m.role}`, {ariaLabel: who}, el('h3', who));
	const action = (label, onclick) => el('button.changes', label, {type: 'button', onclick});
	const drawVersions = all => {
		const at = all.indexOf(m);
		const arrow = (label, sign, by) => el('button', sign, {ariaLabel: label, disabled: !all[at + by], onclick() {
			const {id} = all[at + by];
			c.chosen[m.parent] = id; save(c); drawPath();
			views.get(id).article.querySelector('.changes :enabled').focus();
		}});
		if (all.length > 1) versions.replaceChildren(arrow('Earlier version', '‹', -1), `${at + 1} / ${all.length}`, arrow('Later version', '›', 1));
	};

	if (m.role === 'user') {
		text.textContent = m.text;
		const edit = action('Edit', () => {
			const area = el('textarea', {value: m.text, ariaLabel: 'Edit the message'});
			const swap = (one, other) => {one.replaceWith(other); actions.hidden = other === form; (actions.hidden ? area : edit).focus();};
			const end = () => swap(form, text);
			const form = el('form', area, el('div.row', el('button.main', 'Send'), action('Cancel', end)));
			form.onsubmit = event => {
				event.preventDefault();
				if (!area.value.trim() || runs.has(c.id)) return;
				end(); send(c, m.parent, area.value); box.focus();
			};
			area.onkeydown = event => {
				if (event.key === 'Escape') end();
				submits(event, form);
			};
			swap(text, form);
		});
		actions.append(edit); article.append(text, actions);
		return {article, drawVersions, draw() {}};
	}

	const summary = el('summary'), thoughts = document.createTextNode('');
	const thinking = el('details.thinking', summary, el('div', thoughts));
	const bar = el('progress', {ariaLabel: 'Reading the prompt'}), waits = el('span');
	const wait = el('div.waiting', bar, waits), trouble = el('p.bad'), stats = el('p.stats');
	const more = action('Continue', () => answer(c, m, true));
	actions.append(action('Regenerate', () => send(c, m.parent, null)), more);
	article.append(thinking, text, wait, trouble, stats, actions);
	const grow = growing(text);
	const draw = () => {
		const run = runs.get(c.id)?.message === m ? runs.get(c.id) : null;
		thinking.hidden = !m.thinking;
		summary.textContent = run && !m.text ? 'Thinking' : m.thought ? `Thought for ${time(m.thought / 1e3)}` : 'Thoughts';
		thoughts.appendData((m.thinking ?? '').slice(thoughts.length)); grow(m.text);
		wait.hidden = !run || run.pieces > 0; bar.hidden = !run?.progress?.total;
		bar.value = bar.hidden ? 0 : run.progress.processed / run.progress.total;
		waits.textContent = run?.progress ? reading(run.progress) : 'Waiting for the server';
		trouble.hidden = !m.error; trouble.textContent = m.error;
		const seconds = run?.first ? (clock() - run.first) / 1e3 : 0;
		stats.textContent = !run ? statistics(m) : seconds > 0.5 ? `about ${plural(run.pieces, 'token')} at ${rate(run.pieces / seconds)} tok/s` : '';
		actions.hidden = run !== null; more.hidden = !m.text || (m.state === 'done' && m.finish !== 'length');
	};
	draw();
	return {article, drawVersions, draw};
}

/** Brings the transcript to the path, with the views that are there already. */
function drawPath() {
	const log = $('log');
	const shown = path(current).map(({message, versions}) => {
		if (!views.has(message.id)) views.set(message.id, viewOf(current, message));
		views.get(message.id).drawVersions(versions);
		return views.get(message.id).article;
	});
	shown.forEach((article, i) => {if (log.children[i] !== article) log.insertBefore(article, log.children[i] ?? null);});
	while (log.children.length > shown.length) log.lastChild.remove();
	show('empty', !shown.length); put('title', current.title || 'New conversation');
	show('system', current.system); put('system', `System prompt: ${current.system}`);
	$('export-one').disabled = $('delete').disabled = !shown.length; drawBusy(); drawContext();
}

function drawBusy() {
	const busy = runs.has(current.id);
	$('log').classList.toggle('busy', busy); show('stop', busy); show('send', !busy);
	$('send').disabled = state !== 'ready'; drawList();
}

function open(c) {
	current = c; views = new Map(); following = true; $('log').replaceChildren(); sessionStorage.current = c.id;
	drawPath(); follow();
	if (narrow.matches) panel('list', false);
}

// ---- Answers ----
const SAMPLING = [
	['temperature', 'Temperature', 0, 5, 'any'], ['top_p', 'Top p', 0, 1, 'any'], ['top_k', 'Top k', 0, 1e6, 1], ['min_p', 'Min p', 0, 1, 'any'],
	['repeat_penalty', 'Repeat penalty', 0.01, 10, 'any'], ['max_tokens', 'Most tokens', 1, 1e7, 1], ['seed', 'Seed', 0, 2 ** 53 - 1, 1],
].map(([name, label, min, max, step]) => ({name, label, field: el('input', {id: `set-${name}`, type: 'number', min, max, step, autocomplete: 'off'})}));
const settings = JSON.parse(localStorage.settings ?? '{}');

function request(c, m, continued) {
	const all = new Map(c.messages.map(other => [other.id, other]));
	const before = continued ? [m] : [];
	for (let at = all.get(m.parent); at; at = all.get(at.parent)) before.unshift(at);
	const {think, ...sampling} = settings;
	const body = {stream: true, return_progress: true, stream_options: {include_usage: true}, ...sampling};
	if (plain()) return ['/v1/completions', {max_tokens: 256, ...body, prompt: before.map(({text}) => text).join('')}];
	if (think) body.chat_template_kwargs = {enable_thinking: think === 'on'};
	const messages = before.map(({role, text}) => ({role, content: text}));
	if (c.system) messages.unshift({role: 'system', content: c.system});
	return ['/v1/chat/completions', {...body, messages}];
}

/** A message of the user below `parent`, and the answer; without a text only another answer. */
function send(c, parent, text) {
	following = true;
	answer(c, add(c, text === null ? parent : add(c, parent, 'user', text).id, 'assistant', ''));
}

async function answer(c, m, continued) {
	if (runs.has(c.id)) return;
	const run = {message: m, abort: new AbortController(), progress: null, pieces: 0, first: 0, began: clock()};
	const [where, body] = request(c, m, continued);
	Object.assign(m, {state: 'running', error: '', finish: '', stats: null}); runs.set(c.id, run);
	const before = now?.experts;
	const draw = () => {if (c === current) views.get(m.id)?.draw(), follow();};
	let [asked, next, saved] = [false, 0, 0];
	// Once a frame, and a fifth of the time at the most: what is long to draw is drawn less often.
	const frame = at => {
		if (at < next) return requestAnimationFrame(frame);
		asked = false; draw(); next = clock() + 4 * (clock() - at);
	};
	if (c === current) drawPath();
	follow(); say('Generating');
	try {
		let ended = false;
		for await (const data of frames(await ask(where, body, run.abort.signal))) {
			if ((ended = data === '[DONE]')) break;
			take(run, JSON.parse(data));
			if (!asked) requestAnimationFrame(frame);
			asked = true;
			// A reload finds what there was.
			if (clock() > saved + 500) save(c), (saved = clock());
		}
		if (!ended && !m.finish) throw new Refused('The connection ended before the answer did.');
		m.state = 'done';
	} catch (error) {
		m.state = run.abort.signal.aborted ? 'stopped' : 'failed';
		if (m.state === 'failed') m.error = error instanceof Refused ? error.message : 'The server cannot be reached.';
	}
	run.abort.abort(); runs.delete(c.id); counting = [before]; c.changed = Date.now(); save(c); draw();
	c === current ? drawPath() : drawList();
	say(m.state === 'done' ? 'Answer complete' : m.state === 'stopped' ? 'Stopped' : `The answer failed: ${m.error}`);
}

function take(run, {error, prompt_progress, choices, timings: t, usage}) {
	const m = run.message;
	if (error) throw new Refused(error.message ?? 'The server failed.');
	if (prompt_progress) run.progress = prompt_progress;
	const {delta, text = delta?.content, finish_reason} = choices?.[0] ?? {};
	const thought = delta?.reasoning_content, at = clock();
	if (text || thought) {
		run.first ||= at; run.pieces += 1;
		if (thought) m.thinking = (m.thinking ?? '') + thought;
		if (text && m.thinking) m.thought ||= at - run.first;
		m.text += text ?? '';
	}
	if (finish_reason) m.finish = finish_reason;
	// Text completions have counts, but no times.
	if (t) m.stats = {prompt: t.cache_n + t.prompt_n, cached: t.cache_n, ms: t.prompt_ms, tokens: t.predicted_n, speed: t.predicted_per_second, queue: t.queue_ms};
	else if (usage) m.stats ??= {prompt: usage.prompt_tokens, ms: run.first - run.began, tokens: usage.completion_tokens, speed: (1e3 * run.pieces) / (at - run.first || 1)};
}

const stop = () => runs.get(current.id)?.abort.abort();
/** Enter sends, but not while an input method composes a character with it. */
function submits(event, form) {
	if (event.key !== 'Enter' || event.shiftKey || event.isComposing || event.keyCode === 229) return;
	event.preventDefault();
	form.requestSubmit();
}

const box = $('prompt');
box.onkeydown = event => submits(event, $('composer'));
$('composer').onsubmit = event => {
	event.preventDefault();
	const last = path(current).at(-1)?.message;
	// A text may go on without a word of the user's.
	if (state !== 'ready' || runs.has(current.id) || (!box.value.trim() && !(plain() && last))) return;
	send(current, last?.id ?? '', box.value); box.value = '';
};

// ---- The machine ----
/** How the server was told to be last, and when; tokens per second of the last minute. */
let now = null;
let heard = 0;
let speeds = [];
/** Tokens that took each expert, by layer, while the last answer was written. */
let taken = null;
/** Counts come once a second: what an answer took is known with the next. */
let counting = null;

function hear(status) {
	const at = clock(), tokens = status.totals.generated_tokens - (now?.totals.generated_tokens ?? Infinity);
	// Fewer than before: another process answers.
	if (tokens >= 0) speeds = [...speeds, (1e3 * tokens) / Math.max(1, at - heard)].slice(-60);
	[now, heard] = [status, at];
	if (counting) taken = now.experts?.map((layer, l) => layer?.map((n, e) => n - (counting[0]?.[l]?.[e] ?? 0)));
	counting = null; drawMachine(); drawRouting();
}

function drawMachine() {
	const {rss, peak, budget, parts, kv, running, queued, slots, totals} = now;
	const [used, kept] = [kv.active, kv.cached].map(tokens => (parts.kv * tokens) / (kv.capacity || 1));
	const segments = [
		['Weights', parts.weights, 'c-weights'], ['KV in use', used, 'c-used'], ['KV cached', kept, 'c-kept'],
		['KV free', Math.max(0, parts.kv - used - kept), 'c-free'], ['Scratch', parts.scratch, 'c-scratch'], ['Other', parts.other, 'c-other'],
	];
	const planned = segments.reduce((sum, [, bytes]) => sum + bytes, 0);
	const whole = Math.max(planned, peak, budget ?? 0), bar = $('memory-bar');
	segments.forEach(([, bytes, colour], i) => {
		const part = bar.children[i] ?? bar.appendChild(el(`div.${colour}`));
		part.style.width = percent(bytes, whole);
	});
	$('memory-peak').style.left = percent(peak, whole); show('memory-budget', budget);
	$('memory-budget').style.left = percent(budget, whole);
	put('memory-now', size(planned) + (budget ? ` of ${size(budget)}` : ', no budget'));
	facts('memory-table', [
		...segments.map(([name, bytes, colour]) => [name, size(bytes), colour]),
		...(budget ? [['Budget', size(budget), 'line']] : []), ['Peak, measured', size(peak), 'dots'], ['Now, measured', size(rss)],
	]);
	const [speed, top, from] = [speeds.at(-1) ?? 0, Math.max(...speeds, 0), 61 - speeds.length];
	put('speed-now', `${rate(speed)} tokens per second`); put('speed-top', top ? `highest ${rate(top)}` : '');
	$('spark').ariaLabel = `Tokens per second of the last minute: now ${rate(speed)}, highest ${rate(top)}`;
	const line = speeds.length ? `M${speeds.map((s, i) => `${from + i} ${(20 - (18 * s) / (top || 1)).toFixed(2)}`).join('L')}` : '';
	const [area, edge] = $('spark').children;
	edge.setAttribute('d', line); area.setAttribute('d', line && `${line}V20H${from}Z`);
	const work = {Answered: 'ended', Failed: 'failed', 'Prompt tokens': 'prompt_tokens', 'of them cached': 'cached_tokens', 'Generated tokens': 'generated_tokens'};
	facts('work-table', [['Running', `${running} of ${slots}`], ['Waiting', count(queued)], ...Object.entries(work).map(([name, of]) => [name, count(totals[of])])]);
}

function drawContext() {
	if (!model) return;
	const stats = path(current).findLast(({message}) => message.stats)?.message.stats;
	const used = stats ? Math.min(model.context, stats.prompt + stats.tokens) : 0;
	put('context-now', `${count(used)} of ${plural(model.context, 'token')}`);
	$('context-bar').style.width = percent(used, model.context);
}

function drawModel() {
	const {id, meta, template, params} = model;
	put('model', id); document.title = `${id} · ram-run`;
	$('empty').replaceChildren(
		el('p.lead', plain() ? 'Begin a text' : 'Ask something'),
		el('p.soft', `${id}: ${many(meta.n_params)} parameters in ${size(meta.size)}, ${meta.bits_per_weight.toFixed(2)} bits each. `,
			plain() ? 'It has no chat template: it continues what you write.' : 'What you write goes to this server and nowhere else.'),
	);
	box.placeholder = plain() ? 'Write a text to continue' : 'Write a message';
	show('think-row', /enable_thinking/.test(template));
	for (const {name, field} of SAMPLING) field.placeholder = name in params ? +params[name].toFixed(3) : name === 'seed' ? 'random' : 'as fits';
}

// ---- The plan ----
let plan = null;
let layerOpen = null;
let routing = [];
const kindsOf = entries => [...new Set(entries.map(e => e.kind))];
const small = n => (n ? n.toPrecision(2) : '0');
const row = (name, ...rest) => el('tr', el('th', {scope: 'row'}, name), rest.flat().map(part => (typeof part === 'string' ? el('td', part) : part)));
const region = (label, table) => el('div.scroll', {tabIndex: 0, role: 'region', ariaLabel: label}, table);
const grid = (label, heads, rows) => [
	el('h3', label),
	region(label, el('table.grid', {ariaLabel: label}, el('thead', el('tr', heads.map(name => el('th', {scope: 'col'}, name.replace('_', ' '))))), el('tbody', rows))),
];
function heat(sum) {
	if (!sum) return '';
	const bits = (8 * sum.bytes) / sum.n;
	// Eight steps from 2 to 16 bits, as many for each doubling.
	const step = Math.max(0, Math.min(7, Math.round((7 / 3) * (Math.log2(bits) - 1))));
	return el(`td.heat.b${step}`, bits.toFixed(1), {title: `${bits.toFixed(3)} bits: ${[...sum.formats].join(', ')}`});
}

/** Sums of entries by what `of` says of each. */
function sums(entries, of) {
	const all = new Map();
	for (const e of entries) {
		const n = e.shape.reduce((product, side) => product * side, 1);
		const sum = all.get(of(e)) ?? {bytes: 0, n: 0, error: 0, formats: new Set()};
		all.set(of(e), sum); sum.error = (sum.error * sum.n + e.error * n) / (sum.n + n); sum.bytes += e.bytes;
		sum.n += n; sum.formats.add(e.format);
	}
	return all;
}

function command() {
	const {memory, weight_bytes, method, context, kv} = plan;
	const [name, format] = method.split(' ');
	const how = {uniform: ` --uniform ${format}`, dense: ' --dense', kl: ''}[name] ?? ` --objective ${name}`;
	return `ram-run serve ${memory.budget ? `--budget ${memory.budget}` : `--weights ${weight_bytes}`}${how} --ctx ${context} --kv ${kv}`;
}

async function showPlan() {
	if (plan || !model) return;
	try {
		plan = await (await ask('/ram/plan')).json(); drawPlan();
	} catch (error) {
		$('plan-body').replaceChildren(el('p.bad', `The plan cannot be read: ${error.message}`));
	}
}

function drawPlan() {
	const {entries} = plan;
	const layered = entries.filter(e => e.layer !== null && e.kind !== 'norm' && e.kind !== 'bias');
	const kinds = kindsOf(layered);
	const by = sums(layered, e => `${e.layer} ${e.kind}`);
	const layers = [...sums(layered, e => e.layer)].map(([l, {bytes}]) => {
		const button = el('button', `Layer ${l}`, {id: `layer-${l}`, 'aria-expanded': false});
		const line = row(button, kinds.map(kind => heat(by.get(`${l} ${kind}`))), size(bytes));
		line.className = 'layer';
		// A click on the button comes here too.
		line.onclick = () => (layerOpen === l ? closeLayer() : openLayer(l));
		return line;
	});
	const byKind = [...sums(entries, e => e.kind)].sort((a, b) => b[1].bytes - a[1].bytes);
	const bars = byKind.map(([kind, sum]) => {
		const bar = el('span.share');
		bar.style.width = percent(sum.bytes, byKind[0][1].bytes);
		return row(kind.replace('_', ' '), el('td.share-cell', bar), size(sum.bytes), heat(sum), small(sum.error));
	});
	const told = {
		Plan: plan.fingerprint, 'Bits per weight': plan.bits_per_weight.toFixed(3), Weights: size(plan.weight_bytes), Parameters: many(plan.parameters),
		'Expected KL divergence': plan.expected_kl == null ? 'unknown' : `${plan.expected_kl.toPrecision(3)} nats`, 'Chosen by': plan.method,
		'Keys and values': `${plan.kv}, ${plural(plan.context, 'token')}`,
	};
	$('plan-body').replaceChildren(
		el('dl.numbers', Object.entries(told).map(([name, value]) => el('div', el('dt', name), el('dd', value)))),
		el('div.command', el('code', command()), copier(command)),
		el('p.soft.small', 'With the same --model, this line makes the same plan.'),
		el('div.maps',
			el('div', grid('Bits per weight, by layer and kind', ['layer', ...kinds, 'bytes'], layers), el('p.soft.small', 'The mean over the experts of a layer. A layer opens to its tensors.')),
			el('div', {id: 'layer'})),
		...grid('Bytes by kind', ['kind', 'share', 'bytes', 'bits', 'relative error'], bars),
	);
}

function closeLayer() {
	const button = $(`layer-${layerOpen}`);
	button.ariaExpanded = false; $('layer').replaceChildren(); layerOpen = null; button.focus();
}

function openLayer(l) {
	if (layerOpen !== null) closeLayer();
	layerOpen = l; routing = []; $(`layer-${l}`).ariaExpanded = true;
	const own = plan.entries.filter(e => e.layer === l);
	const tensors = [...sums(own.filter(e => e.expert === null), e => e)].map(([e, sum]) =>
		row(e.name.replace(/^.*layers\.\d+\.|\.weight$/g, ''), heat(sum), e.format, e.shape.join(' × '), size(e.bytes), small(e.error)));
	const [head, table] = grid(`Layer ${l}`, ['tensor', 'bits', 'format', 'shape', 'bytes', 'relative error'], tensors);
	head.tabIndex = -1;
	const parts = [el('div.row', head, el('button', 'Close', {onclick: closeLayer})), table];
	const experts = own.filter(e => e.expert !== null);
	if (experts.length) {
		const by = sums(experts, e => `${e.expert} ${e.kind}`);
		const kinds = kindsOf(experts);
		const rows = [...sums(experts, e => e.expert)].map(([x, sum]) => {
			const counts = [el('td.fill'), el('td.fill')];
			routing.push({x, counts});
			return row(`${x}`, kinds.map(kind => heat(by.get(`${x} ${kind}`))), counts, size(sum.bytes), small(sum.error));
		});
		parts.push(...grid(`Experts of layer ${l}`, ['expert', ...kinds, 'tokens since the start', 'in the last answer', 'bytes', 'relative error'], rows),
			el('p.soft.small', 'Tokens that the router gave to each expert, as it happens, of all who ask this server.'));
	}
	$('layer').replaceChildren(...parts); drawRouting(); head.focus();
}

function drawRouting() {
	if (layerOpen === null) return;
	[now?.experts, taken].forEach((all, which) => {
		const tokens = all?.[layerOpen] ?? [];
		for (const {x, counts} of routing) {
			counts[which].textContent = x in tokens ? count(tokens[x]) : '–';
			counts[which].style.backgroundSize = `${percent(tokens[x] ?? 0, Math.max(...tokens))} 100%`;
		}
	});
}

// ---- The shell: tabs, side regions, colours, dialogs ----
const TABS = ['chat', 'plan'];
function view(name) {
	body.dataset.view = name;
	for (const other of TABS) {
		const tab = $(`tab-${other}`);
		tab.ariaSelected = other === name; tab.tabIndex = other === name ? 0 : -1; show(other, other === name);
	}
	if (name === 'plan') showPlan();
	if (narrow.matches) panels(false);
}
TABS.forEach((name, i) => {
	$(`tab-${name}`).onclick = () => view(name);
	$(`tab-${name}`).onkeydown = ({key}) => {
		if (!/^Arrow(Left|Right)$/.test(key)) return;
		view(TABS[1 - i]); $(`tab-${TABS[1 - i]}`).focus();
	};
});

/** Under 60 rem one region at a time. */
const narrow = matchMedia('(max-width: 59.99rem)');
function panel(name, shown) {
	body.toggleAttribute(`data-${name}`, shown); $(`show-${name}`).ariaExpanded = shown;
	if (shown && narrow.matches) panel(name === 'list' ? 'machine' : 'list', false);
}
const toggle = name => panel(name, !body.hasAttribute(`data-${name}`));
const panels = shown => ['list', 'machine'].forEach(name => panel(name, shown));
narrow.onchange = () => panels(!narrow.matches);

const THEMES = {auto: 'light', light: 'dark', dark: 'auto'};
function theme(name) {
	document.documentElement.dataset.theme = localStorage.theme = name;
	$('theme').title = $('theme').ariaLabel = `Colours: ${name === 'auto' ? "the system's" : name}`;
}

const clicks = {
	new() { open(begun()); box.focus(); },
	stop() { stop(); box.focus(); },
	delete() {
		const c = current;
		stop(); conversations = conversations.filter(other => other !== c); store('readwrite')?.delete(c.id);
		open(conversations[0] ?? begun());
		notice(`Deleted: ${c.title || 'Untitled'}`, () => {
			conversations.push(c); save(c); open(c);
		});
	},
	import() { $('file').click(); },
	'notice-close': () => show('notice', false),
	'key-cancel': () => $('key').close(),
	'banner-key': () => unlock(),
	'export-one': () => download([current]),
	'export-all': () => download(conversations),
	'show-machine': () => toggle('machine'),
	'show-list': () => toggle('list'),
	theme() {
		theme(THEMES[localStorage.theme]); say($('theme').title);
	},
	'open-settings'() {
		$('set-title').value = current.title; $('set-system').value = current.system;
		$('set-think').value = settings.think ?? '';
		for (const {name, field} of SAMPLING) field.value = settings[name] ?? '';
		$('settings').showModal();
	},
	skip(event) {
		event.preventDefault(); (body.dataset.view === 'plan' ? $('plan') : box).focus();
	},
};
for (const id in clicks) $(id).onclick = clicks[id];
$('file').onchange = async () => {
	try {
		const added = imported(JSON.parse(await $('file').files[0].text()));
		conversations.push(...added); added.forEach(save);
		if (added.length) open(added[0]);
		notice(`Imported: ${plural(added.length, 'conversation')}`);
	} catch {
		notice('Nothing is imported: the file is not whole.');
	}
	$('file').value = '';
};

$('sampling').append(...SAMPLING.map(({label, field}) => el('div', el('label', label, {htmlFor: field.id}), field)));
$('settings-form').oninput = () => {
	current.title = $('set-title').value; current.system = $('set-system').value.trim();
	settings.think = $('set-think').value;
	for (const {name, field} of SAMPLING) {
		if (!field.checkValidity()) continue;
		if (field.value === '') delete settings[name];
		else settings[name] = field.valueAsNumber;
	}
	localStorage.settings = JSON.stringify(settings); save(current);
};
$('settings-form').onsubmit = event => {event.preventDefault(); $('settings').close();};
$('settings').onclose = drawPath;

// ---- How the server is ----
/** starting, or one of these */
let state = 'starting';
let unlock = () => {};
const STATES = {
	ready: [], loading: ['Preparing the model'], locked: ['This server wants a key.'], lost: ['The server cannot be reached.', 'Trying again.'],
	draining: ['The server is about to end.', 'It takes no more requests.'],
};
function become(next, text, done) {
	const [title, more] = STATES[next];
	if (next !== state) say(title ?? 'Ready');
	state = next; show('banner', title); put('banner-title', title); put('banner-text', text ?? more);
	show('banner-done', next === 'loading'); $('banner-done').value = done ?? 0;
	show('banner-key', next === 'locked'); drawBusy();
}

async function untilReady() {
	for (;;) {
		const {status, stage, done} = await fetch('/health').then(response => response.json()).catch(() => ({}));
		if (status === 'ok') return;
		if (status === 'loading') become(status, `${stage}, ${Math.floor(100 * done)} %`, done);
		else become(status === 'draining' ? status : 'lost');
		await new Promise(go => setTimeout(go, status ? 500 : 2000));
	}
}

async function meet() {
	const [models, props] = await Promise.all(['/v1/models', '/props'].map(async where => (await ask(where)).json()));
	const {id, max_model_len: context, meta} = models.data[0];
	const other = model?.meta.plan !== meta.plan;
	model = {id, context, meta, template: props.chat_template, params: props.default_generation_settings.params};
	drawModel(); drawContext();
	if (!other) return;
	plan = layerOpen = null;
	if (body.dataset.view === 'plan') showPlan();
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
				clearTimeout(timer); timer = setTimeout(() => abort.abort(), 20_000); hear(JSON.parse(data));
			}
		} catch (error) {
			if (error instanceof NoKey) {
				become('locked');
				await new Promise(done => {unlock = done;});
			}
		}
		clearTimeout(timer);
		await new Promise(go => setTimeout(go, 1000));
	}
}

takeKey();
addEventListener('hashchange', () => {takeKey(); unlock();});
addEventListener('keydown', event => {
	if (event.key === 'Escape' && !event.isComposing && !document.querySelector('dialog[open]')) stop();
});
for (const scrolls of [$('scroller'), window]) scrolls.addEventListener('scroll', scrolled, {passive: true});
theme(localStorage.theme in THEMES ? localStorage.theme : 'auto');
panels(!narrow.matches);
view('chat');
await load();
open(conversations.find(c => c.id === sessionStorage.current) ?? current);
if (!narrow.matches) box.focus();
watch();

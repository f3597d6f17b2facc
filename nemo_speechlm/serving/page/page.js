// The page: takes a recording, asks the server, draws the answer. See docs/how-to/try-a-model.md for the answer's form.

const $ = (id) => document.getElementById(id);
const seconds = (x) => `${x < 10 ? x.toFixed(1) : Math.round(x)} s`;
const element = (tag, className, text) => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

let about = null;     // the model, as /about says it
let answer = null;    // of the last recording
let scale = 0;        // pixels of a second; 0: until it is fitted to the window
let busy = false;
let recording = null;
let stopAt = Infinity; // where the player is to stop, seconds

// --- the model ------------------------------------------------------------------------------------------------------

async function start() {
  try {
    about = await (await fetch("about")).json();
  } catch {
    return fail("the server does not answer; is it still running?");
  }
  const does = about.task === "translation" ? "translates speech" : "recognizes speech";
  const units = about.units ? `, with ${about.units.symbols.length} ${about.units.kind} units` : "";
  $("model").textContent = about.name;
  $("about").textContent = `${about.kind}: ${does}${units}`;
  $("text-title").textContent = about.task === "translation" ? "Translation" : "Text";
  $("limits").textContent = `up to ${about.max_duration} seconds and ${Math.floor(about.max_bytes / 1e6)} MB; nothing leaves this server`;
  document.title = about.name;
  document.body.dataset.ready = "yes";
}

// --- a recording to the server --------------------------------------------------------------------------------------

async function recognize(blob, name) {
  if (busy) return;
  fail(null);
  if (blob.size > about.max_bytes) {
    return fail(`the file is larger than ${Math.floor(about.max_bytes / 1e6)} MB (max_megabytes)`);
  }
  setBusy(true);
  try {
    let reply = await send(blob, name);
    if (reply.status === 422 && /not audio that can be read/.test(reply.body.error)) {
      const decoded = await decodedHere(blob); // of formats that the browser knows and the server does not
      if (decoded) {
        blob = decoded;
        reply = await send(blob, name);
      }
    }
    if (reply.status !== 200) return fail(`${name}: ${reply.body.error}`);
    answer = reply.body;
    scale = 0;
    $("player").src = URL.createObjectURL(blob);
    show();
  } catch {
    fail("the server does not answer; is it still running?");
  } finally {
    setBusy(false);
  }
}

async function send(blob, name) {
  const reply = await fetch(`recognize?name=${encodeURIComponent(name)}`, {
    method: "POST", body: blob, headers: {"Content-Type": "application/octet-stream"},
  });
  const text = await reply.text();
  try {
    return {status: reply.status, body: JSON.parse(text)};
  } catch {
    return {status: reply.status, body: {error: text || `status ${reply.status}`}};
  }
}

async function decodedHere(blob) {
  const context = new OfflineAudioContext(1, 1, 48000);
  try {
    const audio = await context.decodeAudioData(await blob.arrayBuffer());
    if (audio.duration > about.max_duration + 0.5) return null;
    const mono = new Float32Array(audio.length);
    for (let c = 0; c < audio.numberOfChannels; c++) {
      audio.getChannelData(c).forEach((x, i) => { mono[i] += x / audio.numberOfChannels; });
    }
    return wav([mono], audio.sampleRate);
  } catch {
    return null;
  }
}

function wav(blocks, rate) {
  const count = blocks.reduce((sum, block) => sum + block.length, 0);
  const view = new DataView(new ArrayBuffer(44 + 2 * count));
  const write = (at, text) => [...text].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  write(0, "RIFF"); view.setUint32(4, 36 + 2 * count, true); write(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, rate, true); view.setUint32(28, 2 * rate, true); view.setUint16(32, 2, true); view.setUint16(34, 16, true);
  write(36, "data"); view.setUint32(40, 2 * count, true);
  let at = 44;
  for (const block of blocks) {
    for (const x of block) { view.setInt16(at, Math.max(-1, Math.min(1, x)) * 32767, true); at += 2; }
  }
  return new Blob([view], {type: "audio/wav"});
}

function fail(message) {
  $("error").hidden = message === null;
  $("error").textContent = message ?? "";
}

function setBusy(now) {
  busy = now;
  $("status").textContent = now ? "Listening to it ..." : "";
  $("record").disabled = now;
  $("file").disabled = now;
  document.querySelector("label[for=file]").setAttribute("aria-disabled", String(now));
}

// --- the microphone -------------------------------------------------------------------------------------------------

async function toggleRecording() {
  if (recording) return stopRecording();
  fail(null);
  if (!navigator.mediaDevices) {
    return fail("browsers give a microphone only to pages of this machine (127.0.0.1) and to https; choose a file instead");
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({audio: {channelCount: 1}});
  } catch (error) {
    return fail(`no microphone: ${error.message}`);
  }
  const context = new AudioContext();
  await context.audioWorklet.addModule("recorder.js");
  const node = new AudioWorkletNode(context, "recorder");
  recording = {stream, context, blocks: [], count: 0};
  node.port.onmessage = ({data}) => {
    if (!recording) return;
    recording.blocks.push(data);
    recording.count += data.length;
    const passed = recording.count / context.sampleRate;
    $("record-label").textContent = `Stop (${passed.toFixed(1)} s)`;
    if (passed >= about.max_duration) stopRecording();
  };
  context.createMediaStreamSource(stream).connect(node);
  $("record").classList.add("on");
}

function stopRecording() {
  const {stream, context, blocks} = recording;
  recording = null;
  stream.getTracks().forEach((track) => track.stop());
  const rate = context.sampleRate;
  context.close();
  $("record").classList.remove("on");
  $("record-label").textContent = "Record";
  if (blocks.length) recognize(wav(blocks, rate), "recording");
}

// --- the answer -----------------------------------------------------------------------------------------------------

function words() {
  return answer.segments.flatMap((segment) => segment.words
    ?? (segment.text ? [{word: segment.text, start: segment.start, end: segment.end}] : []));
}

function show() {
  $("result").hidden = false;
  const text = $("text");
  text.replaceChildren();
  text.classList.toggle("none", !answer.text);
  if (!answer.text) text.textContent = "nothing was recognized";
  words().forEach((word, i) => {
    if (i) text.append(" ");
    text.append(timed("span", word, word.word));
  });
  const speed = answer.duration / Math.max(answer.seconds, 0.001);
  $("facts").textContent = `${answer.name || "recording"}: ${seconds(answer.duration)}, recognized in ${seconds(answer.seconds)}`
    + ` (${speed < 10 ? speed.toFixed(1) : Math.round(speed)} times as fast as it was spoken)`;
  draw();
}

function timed(tag, span, label) {
  const made = element(tag, span.word !== undefined ? "word" : "", label);
  made.dataset.start = span.start;
  made.dataset.end = span.end;
  if (span.confidence !== undefined) {
    made.title = `${span.start.toFixed(2)} - ${span.end.toFixed(2)} s, confidence ${Math.round(100 * span.confidence)}%`;
    if (span.confidence < 0.5) made.classList.add("unsure");
  } else {
    made.title = `${label}: ${span.start.toFixed(2)} - ${span.end.toFixed(2)} s`;
  }
  made.addEventListener("click", () => play(span.start, span.end));
  return made;
}

function draw() {
  const room = $("scroll").clientWidth;
  const fitted = room / answer.duration;
  if (!scale) scale = Math.max(fitted, answer.units ? 160 : 90);
  scale = Math.min(Math.max(scale, fitted), 1200, Math.max(fitted, 30000 / answer.duration)); // canvases end at 32767
  const width = Math.max(room, Math.round(answer.duration * scale));
  $("strip").style.width = `${width}px`;
  place($("words"), words(), (word) => timed("button", word, word.word));
  const lines = $("lines");
  lines.replaceChildren();
  for (const word of words()) {
    for (const time of [word.start, word.end]) {
      const line = element("i");
      line.style.left = `${time * scale}px`;
      lines.append(line);
    }
  }
  $("units").hidden = !answer.units;
  place($("units"), answer.units ?? [], (unit) => {
    const [label] = unit.symbol.split("_"); // of a phone, its place in the word is told by the title alone
    const silent = label === about.units.silence?.split("_")[0];
    const made = timed("span", unit, (unit.end - unit.start) * scale > 7 * label.length ? label : "");
    made.title = `${unit.symbol}: ${unit.start.toFixed(2)} - ${unit.end.toFixed(2)} s`;
    made.dataset.unit = unit.symbol;
    made.classList.toggle("silence", silent);
    made.style.background = `hsl(${hue(unit.symbol)} 60% 78%)`;
    return made;
  });
  const axis = $("axis");
  axis.replaceChildren();
  const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20].find((x) => x * scale >= 60) ?? 60;
  for (let i = 0; i * step < answer.duration; i++) {
    const tick = element("span", "", `${(i * step).toFixed(step < 1 ? 1 : 0)} s`);
    tick.style.left = `${i * step * scale}px`;
    axis.append(tick);
  }
  paint(answer.spectrogram);
  follow();
}

// One for a phone, whatever its stress and place; the golden angle keeps neighbours apart.
function hue(symbol) {
  const bare = (one) => one.split("_")[0].replace(/(?<=\D)\d$/, "");
  const first = about.units.symbols.findIndex((one) => bare(one) === bare(symbol));
  return (first * 137.5) % 360;
}

function place(parent, spans, make) {
  parent.replaceChildren();
  for (const span of spans) {
    const made = make(span);
    made.style.left = `${span.start * scale}px`;
    made.style.width = `${Math.max(2, (span.end - span.start) * scale - 1)}px`;
    parent.append(made);
  }
}

// A map of colours from black over purple and orange to pale yellow, through these points.
const COLOURS = [[0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164]];
const TABLE = Array.from({length: 256}, (_, level) => {
  const at = level / 255 * (COLOURS.length - 1);
  const low = Math.min(Math.floor(at), COLOURS.length - 2);
  return COLOURS[low].map((c, i) => c + (at - low) * (COLOURS[low + 1][i] - c));
});

function paint({bands, columns, column_seconds, levels}) {
  const bytes = atob(levels);
  const canvas = $("spectrogram");
  canvas.width = columns;
  canvas.height = bands;
  canvas.style.width = `${columns * column_seconds * scale}px`;
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, bands);
  for (let m = 0; m < bands; m++) {
    for (let f = 0; f < columns; f++) {
      const [r, g, b] = TABLE[bytes.charCodeAt(m * columns + f)];
      image.data.set([r, g, b, 255], 4 * ((bands - 1 - m) * columns + f));
    }
  }
  context.putImageData(image, 0, 0);
}

// --- listening to it again ------------------------------------------------------------------------------------------

function play(start, end) {
  stopAt = end;
  $("player").currentTime = start;
  $("player").play();
}

function follow() {
  const now = $("player").currentTime;
  if (now >= stopAt) { $("player").pause(); stopAt = Infinity; }
  $("cursor").style.left = `${now * scale}px`;
  for (const made of document.querySelectorAll("[data-start]")) {
    made.classList.toggle("on", now > 0 && now >= made.dataset.start && now < made.dataset.end);
  }
  if (!$("player").paused) {
    const scroll = $("scroll"), x = now * scale;
    if (x < scroll.scrollLeft || x > scroll.scrollLeft + scroll.clientWidth - 40) scroll.scrollLeft = x - 60;
    requestAnimationFrame(follow);
  }
}

function zoom(factor) {
  const scroll = $("scroll");
  const middle = (scroll.scrollLeft + scroll.clientWidth / 2) / scale;
  scale *= factor;
  draw();
  scroll.scrollLeft = middle * scale - scroll.clientWidth / 2;
}

$("player").addEventListener("play", follow);
$("player").addEventListener("seeked", follow);
$("picture").addEventListener("click", (event) => {
  stopAt = Infinity;
  $("player").currentTime = (event.clientX - $("picture").getBoundingClientRect().left) / scale;
});
$("wider").addEventListener("click", () => zoom(1.5));
$("narrower").addEventListener("click", () => zoom(1 / 1.5));
window.addEventListener("resize", () => answer && draw());
$("record").addEventListener("click", toggleRecording);
$("file").addEventListener("change", ({target}) => {
  if (target.files.length) recognize(target.files[0], target.files[0].name);
  target.value = "";
});
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files.length) recognize(event.dataTransfer.files[0], event.dataTransfer.files[0].name);
  });
}
start();

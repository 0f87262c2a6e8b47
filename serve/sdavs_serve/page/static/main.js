// The page as a whole: the open clip, the sound that the model gets, and the part of its result that is shown.

import { getJson, Problem } from "./api.js";
import { $, el, percent, say, setFacts } from "./dom.js";
import { wireKeys } from "./keys.js";
import { ask, attempt, wireNotices } from "./notice.js";
import { canPlay, Player } from "./player.js";
import { follow } from "./rollout.js";
import { fetchSample, showSamples } from "./samples.js";
import { silence } from "./sound.js";
import { drawAnswers, drawSound } from "./timeline.js";

const OWN = { id: "own", listening: "own", label: "Own sound", blob: null };
const EXPLAIN = {
  own: "",
  muted: "The same pictures with silence. What is still marked was found from the pictures alone.",
  swapped: "The same pictures with another sound. A model that uses the sound marks something else now, or nothing.",
};

const MOST_SOUNDS = 3; // of the classes that a model says it hears, the nearest ones
const HALF_SEEN = 0.5;

let setup = { samples: [], limits: {}, fps: 1 };
let clip = null; // {name, video, sample, entries: Map, version, playable}
let entry = null; // {answer, sound, fps, overlay}, what is shown
let swapFile = null;
let turn = 0;

const player = new Player($("canvas"), {
  onTime: showMoment,
  onPlaying: (playing) => {
    $("play").classList.toggle("playing", playing);
    $("play").setAttribute("aria-label", playing ? "Pause" : "Play");
  },
});

// Requests

/**
 * Ask for a clip. Everything that is shown of one clip is from one version, so that differences are not the rollout's;
 * when that version is no longer loaded, it is forgotten with all its answers.
 */
async function askPinned(asked, request, what) {
  try {
    return await ask({ video: asked.video, version: asked.version, ...request }, what);
  } catch (error) {
    if (!(error instanceof Problem) || error.status !== 409 || asked.version === null) throw error;
    asked.version = null;
    asked.entries.clear();
    return ask({ video: asked.video, ...request }, what);
  }
}

/** The endpoint's answer for a clip with a sound; requested once and cached. */
async function answerFor(asked, sound, fps) {
  const id = `${sound.id}|${fps}`;
  if (!asked.entries.has(id)) {
    const request = { sound: sound.blob, fps, accept: "application/json" };
    const answer = JSON.parse(await (await askPinned(asked, request, "Running the model")).text());
    asked.version = answer.model.version;
    asked.entries.set(id, { answer, sound, fps, overlay: null });
  }
  return asked.entries.get(id);
}

function open(video, name, sample = null) {
  return attempt(async () => {
    const { max_upload_mb: limit } = setup.limits;
    if (video.size > limit * 1e6) {
      const detail = `The file has ${(video.size / 1e6).toFixed(1)} MB; allowed: ${limit} MB`;
      throw new Problem({ title: "Content Too Large", detail, limit: "max_upload_mb" });
    }
    const opened = { name, video, sample, entries: new Map(), version: null, playable: true };
    const found = await answerFor(opened, OWN, Number($("fps").value));
    await show(opened, found);
    player.seek(0);
    $("main").focus({ preventScroll: true });
    window.scrollTo({ top: 0 });
  }, name);
}

/** Request the clip with another sound, or with more or fewer masks. The controls follow what is shown. */
async function askAgain(choose) {
  const mine = ++turn;
  await attempt(async () => {
    const { sound, fps } = await choose();
    await show(clip, await answerFor(clip, sound, fps));
  });
  if (mine === turn) showControls(); // else a later choice is still being loaded
}

async function soundFor(listening) {
  if (listening === "own") return OWN;
  if (listening === "muted") return { id: "muted", listening, label: "Muted", blob: silence() };
  const name = $("swap").value;
  if (name === "file") return { id: `file ${swapFile.name} ${swapFile.size}`, listening, label: swapFile.name, blob: swapFile, name };
  const { title } = setup.samples.find((sample) => sample.name === name);
  return { id: name, listening, label: title, blob: await fetchSample(name), name };
}

// Showing

async function show(shownClip, shownEntry) {
  if (clip !== shownClip || !shownClip.playable) await loadVideo(shownClip, shownEntry);
  const isNew = clip !== shownClip;
  clip = shownClip;
  entry = shownEntry;
  const { answer, sound, fps } = entry;
  $("intake").hidden = true;
  $("work").hidden = $("another").hidden = false;
  $("clip-name").textContent = clip.name;
  player.setSound(clip.playable ? sound.listening : "own", clip.playable ? sound.blob : null);
  player.setAnswer(answer, { burntIn: !clip.playable });
  $("time").max = player.duration.toFixed(2);
  $("clock-end").textContent = ` / ${player.duration.toFixed(1)} s`;
  const rows = [...clip.entries.values()].filter((other) => other.fps === fps);
  drawAnswers($("rows"), rows.map((other) => ({ label: other.sound.label, answer: other.answer, current: other === entry })));
  const heard = sound.listening === "muted" ? null : (sound.blob ?? clip.video);
  drawSound($("rows"), heard, player.duration, () => entry === shownEntry);
  if (isNew) fillSwap();
  showControls();
  const { name, version } = answer.model;
  $("answered").textContent = `Segmented by ${name} ${version} in ${(answer.timings_ms.total / 1000).toFixed(2)} s.`;
  say(`${answer.frames.length} frames segmented, ${sound.label}.`);
  showMoment(player.time);
}

async function loadVideo(shownClip, shownEntry) {
  shownClip.playable &&= await canPlay(shownClip.video);
  if (shownClip.playable) return player.load(shownClip.video);
  // The endpoint reads more kinds of video than browsers play. Its own overlay video plays everywhere.
  const { sound, fps } = shownEntry;
  const request = { sound: sound.blob, fps, accept: "video/mp4" };
  shownEntry.overlay ??= await askPinned(shownClip, request, "This browser cannot play this kind of video; fetching the overlay video instead");
  await player.load(shownEntry.overlay);
}

function showControls() {
  if (!entry) return;
  const { sound, fps } = entry;
  document.querySelector(`[name=listen][value=${sound.listening}]`).checked = true;
  $("swap-field").hidden = sound.listening !== "swapped";
  if (sound.name) $("swap").value = sound.name;
  $("fps").value = String(fps);
  $("opacity").disabled = !clip.playable;
  $("listen-explain").textContent = clip.playable
    ? EXPLAIN[sound.listening]
    : `${EXPLAIN[sound.listening]} This browser cannot play the file, so this is the endpoint's overlay video; its masks have a fixed opacity.`;
}

function showMoment(time) {
  if (!entry) return;
  const { answer } = entry;
  const index = player.frame;
  const frame = answer.frames[index];
  $("time").value = time;
  $("clock").textContent = time.toFixed(1);
  if ($("frame-facts").dataset.shown === `${index} ${entry.sound.id} ${entry.fps} ${clip.name}`) return;
  $("frame-facts").dataset.shown = `${index} ${entry.sound.id} ${entry.fps} ${clip.name}`;
  const score = frame.area ? frame.score.toFixed(2) : "none";
  $("time").setAttribute("aria-valuetext", `${frame.time_s} s, frame ${index + 1} of ${answer.frames.length}, ${frame.area ? `score ${score}` : "nothing marked"}`);
  const classes = (frame.classes ?? []).map((found) => [
    el("span", { class: `swatch colour-${(found.index - 1) % 6}` }, found.name),
    `${found.score.toFixed(2)}, ${percent(found.area)}`,
  ]);
  const sounds = (frame.sounds ?? []).slice(0, MOST_SOUNDS).map(({ name, seen }) => [
    `Heard: ${name}`,
    el("span", { class: "seen" }, el("meter", { value: seen }), `${seen < HALF_SEEN ? "not seen" : "seen"}, ${seen.toFixed(2)}`),
  ]);
  setFacts($("frame-facts"), [
    ["Frame", `${index + 1} of ${answer.frames.length}`],
    ["Score", score],
    ["Marked", percent(frame.area)],
    ...classes,
    ...sounds,
  ]);
}

function fillSwap() {
  const others = setup.samples.filter((sample) => sample.name !== clip.sample);
  $("swap").replaceChildren(
    ...others.map((sample) => el("option", { value: sample.name }, sample.title)),
    el("option", { value: "file" }, swapFile ? swapFile.name : "A file…"),
  );
}

async function showModel() {
  const { model, architecture, backbone, image_size, num_frames, classes, device } = await getJson("v1/model");
  $("model").hidden = false;
  $("model-name").textContent = `${model.name} ${model.version}${model.alias ? ` @${model.alias}` : ""}`;
  setFacts($("model-facts"), [
    ["Version", model.version],
    ["Network", `${architecture} on ${backbone}, ${image_size} px, ${num_frames} frames at once`],
    ["Classes", classes.length > 2 ? String(classes.length - 1) : "sounding or not"],
    ["Runs on", device],
    ["Run", model.run_id],
    ["Data", model.data_digest],
    ["Weights", model.sha256],
  ]);
}

// Wiring

function saveAs(blob, name) {
  const link = el("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

const ENDINGS = { "application/zip": "masks.zip", "video/mp4": "overlay.mp4", "application/json": "answer.json" };

function download(accept) {
  return attempt(async () => {
    const { answer, sound, fps } = entry;
    const stem = clip.name.replace(/\.[^.]*$/, "");
    const request = { sound: sound.blob, fps, accept };
    const blob = accept === "application/json" ? new Blob([JSON.stringify(answer)]) : await askPinned(clip, request, "Preparing the download");
    saveAs(blob, `${stem}-${ENDINGS[accept]}`);
    say("Downloaded.");
  });
}

function wireIntake() {
  const openFile = (file) => file && open(file, file.name);
  for (const button of document.querySelectorAll("[data-choose]")) button.addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => {
    openFile($("file").files[0]);
    $("file").value = ""; // so that the same file can be chosen again
  });
  const over = (inside) => document.body.classList.toggle("dragging", inside);
  window.addEventListener("dragover", (event) => {
    event.preventDefault();
    over(true);
  });
  window.addEventListener("dragleave", (event) => !event.relatedTarget && over(false));
  window.addEventListener("drop", (event) => {
    event.preventDefault();
    over(false);
    openFile(event.dataTransfer.files[0]);
  });
}

function wireListening() {
  const listen = (listening) => askAgain(async () => ({ sound: await soundFor(listening), fps: entry.fps }));
  $("listen").addEventListener("change", (event) => {
    if (event.target.value !== "swapped" || $("swap").value !== "file" || swapFile) return listen(event.target.value);
    showControls(); // nothing to swap with before a file is chosen
    $("swap-file").click();
  });
  $("swap").addEventListener("change", () => ($("swap").value === "file" ? $("swap-file").click() : listen("swapped")));
  $("swap-file").addEventListener("cancel", showControls);
  $("swap-file").addEventListener("change", () => {
    swapFile = $("swap-file").files[0];
    fillSwap();
    $("swap").value = "file";
    listen("swapped");
  });
}

function wirePlayer() {
  const step = (frames) => player.seek((player.frame + frames + 0.5) / entry.answer.fps);
  $("play").addEventListener("click", () => player.toggle());
  $("time").addEventListener("input", () => player.seek(Number($("time").value)));
  $("time").addEventListener("keydown", (event) => {
    const frames = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (!frames) return;
    event.preventDefault();
    step(frames);
  });
  document.addEventListener("keydown", (event) => {
    const free = [document.body, $("main"), $("time")].includes(event.target);
    if (!entry || !free || event.ctrlKey || event.metaKey || event.altKey || ![" ", "k"].includes(event.key)) return;
    event.preventDefault();
    player.toggle();
  });
  $("opacity").addEventListener("input", () => {
    player.opacity = Number($("opacity").value);
    $("opacity-value").textContent = percent(Number($("opacity").value));
  });
  $("fps").addEventListener("change", () => askAgain(() => ({ sound: entry.sound, fps: Number($("fps").value) })));
  for (const button of document.querySelectorAll("[data-download]")) {
    button.addEventListener("click", () => download(button.dataset.download));
  }
}

async function start() {
  wireNotices();
  wireIntake();
  wireListening();
  wirePlayer();
  const greet = () => {
    attempt(showModel);
    // A failure here must not hide another message: the next answer names its version anyway.
    follow(() => showModel().catch((problem) => say(problem.message)));
  };
  wireKeys(greet);
  greet();
  setup = await getJson("page/setup.json");
  const { max_upload_mb, max_seconds } = setup.limits;
  $("limits").textContent = `mp4, mov, webm, mkv, avi or ts, up to ${max_seconds} s and ${max_upload_mb} MB`;
  if (![...$("fps").options].some((option) => Number(option.value) === setup.fps)) {
    $("fps").prepend(el("option", {}, String(setup.fps)));
  }
  $("fps").value = String(setup.fps);
  showSamples($("samples"), setup.samples, (sample) =>
    attempt(async () => open(await fetchSample(sample.name), sample.title, sample.name), sample.title),
  );
}

start();

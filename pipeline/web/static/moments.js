// Timed records of typed answers: tracks along the video, and in words.

/** Texts of a video, timed records in words and without the lists that they were taken out of. */
export function oneByOne(texts) {
  return texts.filter((row) => !(row.task === "record" && row.text.startsWith('[{"start_s":')))
    .map((row) => (row.task === "moment" ? { ...row, text: inWords(row.text) } : row));
}

/** The tracks of timed records among texts, one a prompt and version, newest first. */
export function recordTracks(id, texts) {
  const tracks = new Map();
  for (const row of texts.filter((each) => each.task === "moment")) {
    const track = tracks.get(row.track_id) ?? { track_id: row.track_id, label: row.prompt_name, language: "", texts: 0, made: "",
      subtitles: `api/videos/${id}/transcripts/${row.track_id}.vtt` };
    track.texts += 1;
    if (row.created_at > track.made) track.made = row.created_at;
    tracks.set(row.track_id, track);
  }
  return [...tracks.values()].sort((one, other) => other.made.localeCompare(one.made));
}

/** A record as "kind: goal, player: 7", as subtitles have it. */
function inWords(text) {
  let record;
  try { record = JSON.parse(text); } catch { return text; }
  const { supported, ...rest } = record;
  return `${parts(rest, "").join(", ")}${supported === false ? " (time not in memory)" : ""}`.trim();
}

function parts(value, path) {
  if (value && typeof value === "object" && !Array.isArray(value)) {
    return Object.entries(value).flatMap(([name, part]) => parts(part, path ? `${path}.${name}` : name));
  }
  return [`${path}: ${typeof value === "string" ? value : JSON.stringify(value)}`];
}

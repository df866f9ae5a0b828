package difyexec;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import difyexec.Fuzz.*;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.Fuzz.*;
import static java.nio.charset.StandardCharsets.UTF_8;

/// What a server streams, and `.env`.
final class FuzzedTexts {
    // ── Event streams ───────────────────────────────────────────────────────────────────────────────────────────────

    /// The oracle splits a stream as the HTML standard says, with one exception that the tool documents: the data of a
    /// last event without an empty line after it counts, too. The events are then read as those of a run.
    static final class Events implements Target {
        private static final List<String> PIECES = List.of("data:", "data: ", "event: ping", "id: 7", "retry: 5", ":", "\n",
                "\r\n", "\r", "\n\n", " ", "{", "}", "\"", "null", "é", "😀", "\uFEFF", "1e99", "1E99999999999", "-1",
                "[", "]", "\u0000", "\\ud83d");
        private static final List<String> NAMES = List.of("workflow_started", "node_started", "node_finished", "text_chunk",
                "message", "message_end", "message_replace", "workflow_finished", "workflow_paused", "error",
                "human_input_required", "reasoning_chunk", "something_new");
        private static final List<String> VALUES = List.of("null", "true", "0", "-1", "3.5", "1e400", "9223372036854775808",
                "\"\"", "\"r1\"", "\"succeeded\"", "\"failed\"", "\"paused\"", "\"USD\"", "\"0.0000270\"", "\"-1\"",
                "\"1e999999999\"", "[]", "{}", "{\"answer\":\"x\"}", "\"{\\\"answer\\\":1}\"", "[{\"form_id\":1}]");
        private static final List<String> FIELDS = List.of("id", "status", "outputs", "error", "elapsed_time", "total_tokens",
                "total_steps", "workflow_id", "created_at", "finished_at", "title", "node_type", "text", "inputs",
                "expiration_time", "form_token", "reasons", "execution_metadata", "total_price", "currency");

        @Override
        public String name() {
            return "events";
        }

        @Override
        public byte[] make(SplittableRandom random) {
            var lineBreak = oneOf(random, List.of("\n", "\n", "\r\n", "\r"));
            var text = new StringBuilder();
            for (int left = random.nextInt(6); left > 0; left--) {
                if (chance(random, 20)) text.append("event: ping").append(lineBreak).append(lineBreak);
                text.append(chance(random, 80) ? "data: " : "data:").append(event(random)).append(lineBreak);
                if (chance(random, 90)) text.append(lineBreak);
            }
            var made = chance(random, 40) ? text.toString() : damaged(random, text.toString(), PIECES);
            var bytes = made.getBytes(UTF_8);
            return chance(random, 95) ? bytes : Fuzz.damaged(random, bytes);
        }

        private static String event(SplittableRandom random) {
            var data = Stream.generate(() -> "\"" + oneOf(random, FIELDS) + "\":" + oneOf(random, VALUES))
                    .limit(random.nextInt(7)).distinct().collect(Collectors.joining(",", "{", "}"));
            return "{\"event\":\"" + oneOf(random, NAMES) + "\",\"task_id\":\"t1\",\"workflow_run_id\":"
                    + oneOf(random, List.of("\"r1\"", "\"r1\"", "null", "\"r2\"", "7")) + ",\"answer\":"
                    + oneOf(random, VALUES) + ",\"metadata\":{\"usage\":" + data + "},\"data\":"
                    + (chance(random, 90) ? data : oneOf(random, VALUES)) + "}";
        }

        @Override
        public Result compare(byte[] input, Path folder, SplittableRandom random) throws IOException {
            var found = new ArrayList<String>();
            var lines = new BufferedReader(new InputStreamReader(new ByteArrayInputStream(input), UTF_8));
            for (var data = Transport.event(lines); data.isPresent(); data = Transport.event(lines))
                found.add(data.get());
            var wanted = split(new String(input, UTF_8));
            if (!found.equals(wanted))
                return new Result.Different("other events", found + " instead of " + wanted + ", " + shown(input));
            readAll(found);
            return new Result.Read();
        }

        /// Reads the events as those of a run. Callers skip what is no JSON, or has a number that nobody can read.
        private static void readAll(List<String> events) {
            readAll(events, new RunReader(AppKind.CHATFLOW));
            readAll(events, new RunReader(AppKind.AGENT));
        }

        private static void readAll(List<String> events, RunReader reader) {
            for (var event : events) {
                JsonNode json;
                try {
                    json = Json.MAPPER.readTree(event);
                } catch (JsonProcessingException | NumberFormatException _) {
                    continue;
                }
                reader.add(json);
                reader.streamEvent();
                reader.forms();
                reader.ref();
                reader.end();
                reader.ran().ifPresent(reader::completed);
                reader.answered();
                readDetail(json.path("data"));
            }
        }

        /// Reads the data of an event as the record of a run. Callers accept only an object with an id.
        private static void readDetail(JsonNode detail) {
            if (!detail.isObject() || Json.text(detail, "id").isEmpty()) return;
            var reader = new RunReader(AppKind.CHATFLOW);
            reader.add(Json.MAPPER.createObjectNode().set("data", detail));
            reader.result(new RunRef("r1", ""), Instant.EPOCH);
        }

        private static List<String> split(String stream) {
            var events = new ArrayList<String>();
            var data = new ArrayList<String>();
            for (var line : stream.split("\r\n|\n|\r", -1)) {
                if (line.isEmpty() && !data.isEmpty()) {
                    events.add(String.join("\n", data));
                    data.clear();
                }
                if (line.startsWith("data:")) data.add(line.substring(5).replaceFirst("^ ", ""));
            }
            if (!data.isEmpty()) events.add(String.join("\n", data));
            return events;
        }
    }

    // ── Settings ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// The generator knows the values of what it writes whole. No message may contain a value.
    static final class Settings implements Target {
        private static final String KEY = "app-s3cr3tk3y", WHOLE = "# not damaged";
        private static final List<String> NAMES = List.of("DIFY_API_KEY", "DIFY_API_BASE_URL", "TIMEOUT", "OTHER_1");
        private static final List<String> PIECES = List.of("=", "\"", "'", "#", "\n", "\r\n", " ", "\t", "export ", "\\", "$",
                "DIFY_API_KEY", "é", "\uFEFF", "\u0000", ":", "{}", "-----BEGIN", "\\n");

        @Override
        public String name() {
            return "dotenv";
        }

        @Override
        public byte[] make(SplittableRandom random) {
            var text = new StringBuilder();
            var lineBreak = oneOf(random, List.of("\n", "\r\n"));
            for (var name : NAMES) {
                if (chance(random, 20)) text.append("# a comment = 1").append(lineBreak);
                if (chance(random, 10)) text.append(lineBreak);
                text.append(name).append(chance(random, 80) ? "=" : " = ").append(value(random, name))
                        .append(lineBreak);
            }
            if (chance(random, 3)) text.append(oneOf(random, PIECES).repeat(20_000));
            var made = chance(random, 40) ? WHOLE + lineBreak + text : damaged(random, text.toString(), PIECES);
            var bytes = made.getBytes(UTF_8);
            return chance(random, 95) || made.startsWith(WHOLE) ? bytes : Fuzz.damaged(random, bytes);
        }

        private static String value(SplittableRandom random, String name) {
            var value = plain(name);
            return switch (random.nextInt(5)) {
                case 0 -> '"' + value + '"';
                case 1 -> "'" + value + "'";
                case 2 -> value + " # of the app";
                default -> value;
            };
        }

        private static String plain(String name) {
            return name.equals("DIFY_API_KEY") ? KEY : name.equals("TIMEOUT") ? "5m" : "http://dify.example/v1?a=b";
        }

        @Override
        public Result compare(byte[] input, Path folder, SplittableRandom random) throws IOException {
            Files.write(folder.resolve(".env"), input);
            var env = Given.env(Map.of(), folder);
            boolean isWhole = new String(input, UTF_8).startsWith(WHOLE);
            var refused = "";
            for (var name : NAMES) {
                var missing = env.missing(name);
                try {
                    env.needed(name);
                } catch (Unusable problem) {
                    refused = problem.getMessage();
                    if (!refused.contains(folder.toString())) return new Result.Different("no place", refused);
                    if (refused.contains(KEY)) return new Result.Different("the key is shown", refused);
                }
                if (missing.contains(KEY)) return new Result.Different("the key is shown", missing);
                if (isWhole && !env.get(name).equals(plain(name))) return new Result.Different("another value",
                        name + ": " + env.get(name) + ", " + shown(input));
            }
            env.unknownNames(List.of());
            env.secret();
            return refused.isEmpty() ? new Result.Read() : new Result.Refused(refused);
        }
    }
}

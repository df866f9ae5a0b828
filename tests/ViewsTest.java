import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.fasterxml.jackson.databind.util.RawValue;
import org.junit.jupiter.api.Nested;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;

import module java.base;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.assertAll;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

/// What a person sees of a batch and hands on: the status, the report and the spreadsheet, each made from files as `run`
/// leaves them.
@Timeout(60)
class ViewsTest {

    private static final ObjectMapper JSON = new ObjectMapper();
    private static final Instant NOON = Instant.parse("2026-01-16T12:00:00Z");

    /// What must do no harm, wherever it stands.
    private static final List<String> HOSTILE = List.of("<script>hit()</script>", "</script><script>hit()</script>",
            "\" onerror=hit() x=\"", "<!--<script>", "\u001b[31mred\u001b]0;title\u0007", "=HYPERLINK(\"http://x.example\")",
            "-1+cmd|' /C calc'!A0", "@SUM(1)", "+1+1", "line\u2028para\u2029end", "nul\0nul", "\ud800 alone", "\u202eturned");

    @TempDir Path folder;

    // ── Helpers ─────────────────────────────────────────────────────────────────────────────────────────────────────

    record Call(int code, String out, String err) {}

    private Call call(String... args) {
        var out = new StringWriter();
        var err = new StringWriter();
        int code = DifyExec.commandLine(DifyExec.Env.of(Map.of("NO_COLOR", "1"))).setOut(new PrintWriter(out, true))
                .setErr(new PrintWriter(err, true)).execute(args);
        return new Call(code, out.toString(), err.toString());
    }

    private String path(String name) {
        return folder.resolve(name).toString();
    }

    private static String sentence(Call call) {
        assertEquals(1, call.err().lines().count(), call.err());
        return call.err().strip();
    }

    /// The files of a batch, row by row. Times count from noon; a row takes two seconds and starts one after the last.
    private final class Written {
        private final StringBuilder csv = new StringBuilder("id,text\n"), results = new StringBuilder("\uFEFF"),
                log = new StringBuilder(), retry = new StringBuilder();
        private final Map<String, Integer> tries = new HashMap<>();
        private int second = 0, attempts = 0;

        Written() {
            event("session", 0, line -> line.put("format", 1).put("tool", "difyexec 0").put("app", "Reviews")
                    .put("server", "1.14.2").put("mode", "blocking"));
        }

        Written row(String id, String text) {
            csv.append(cell(id)).append(',').append(cell(text)).append('\n');
            return this;
        }

        Written success(String id, String text, String outputs) {
            row(id, text);
            attempt(id);
            second++;
            var line = JSON.createObjectNode().put("id", id).put("status", "success");
            line.putObject("inputs").put("id", id).put("text", text);
            line.putRawValue("outputs", new RawValue(outputs));
            line.put("workflow_run_id", "run-" + attempts).put("executed_at", at(second + 1)).put("retry_count", 0)
                    .put("workflow_status", "succeeded").put("elapsed_time", 1.5).put("total_tokens", 40)
                    .put("total_price", 0.002).put("currency", "USD");
            results.append(line).append('\n');
            end(id, line1 -> line1.put("outcome", "succeeded").put("run", "run-" + attempts).put("tokens", 40)
                    .put("price", 0.002).put("currency", "USD"));
            return this;
        }

        Written ended(String id, String text, String outcome, String error) {
            row(id, text);
            attempt(id);
            second++;
            end(id, line -> line.put("outcome", outcome).put("error", error).put("cause", error).put("run",
                    "run-" + attempts));
            retry.append(id).append('\n');
            return this;
        }

        Written attempt(String id) {
            attempts++;
            int n = tries.merge(id, 1, Integer::sum) - 1;
            event("attempt", second, line -> line.put("id", id).put("n", n).put("user", "user-" + attempts)
                    .put("mode", "blocking").put("kind", "row"));
            return this;
        }

        Written end(String id, Consumer<ObjectNode> more) {
            event("end", second + 1, line -> {
                line.put("id", id).put("user", "user-" + attempts).put("seconds", 2.0);
                more.accept(line);
            });
            return this;
        }

        Written event(String name, int second, Consumer<ObjectNode> more) {
            var line = JSON.createObjectNode().put("event", name).put("t", at(second));
            more.accept(line);
            log.append(line).append('\n');
            return this;
        }

        private String at(int second) {
            return NOON.plusSeconds(second).toString();
        }

        private String cell(String text) {
            return '"' + text.replace("\"", "\"\"") + '"';
        }

        void save() throws IOException {
            write("data.csv", csv);
            write("results.jsonl", results);
            write("results.jsonl.log", log);
            if (!retry.isEmpty()) write("results.jsonl.retry", retry);
        }

        private void write(String name, CharSequence text) throws IOException {
            Files.write(folder.resolve(name), text.toString().getBytes(UTF_8));
        }
    }

    private Written batch() {
        return new Written();
    }

    /// Three successes, a retried failure, an unknown row and one that has not run yet.
    private Written mixed() {
        return batch().success("a", "first", "{\"answer\":\"yes\",\"score\":0.5}").success("b", "second", "{\"answer\":\"no\"}")
                .success("c", "third", "{\"answer\":\"a, \\\"b\\\"\",\"list\":[1,2]}").attempt("d")
                .end("d", line -> line.put("outcome", "again").put("error", "overloaded"))
                .ended("d", "fourth", "failed", "no such city").ended("e", "fifth", "unknown", "the line went dead")
                .row("f", "sixth");
    }

    // ── Status ──────────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class TheStatusTable {
        private String masked(String text) {
            return text.replace(folder.toString(), "FOLDER").replaceAll("\\d{4}-\\d\\d-\\d\\d \\d\\d:\\d\\d:\\d\\d", "TIME")
                    .replaceAll(" [+-]\\d\\d:\\d\\d\n", " ZONE\n");
        }

        @Test
        void isThisTable() throws IOException {
            mixed().save();

            var call = call("status", "-i", path("data.csv"), "-o", path("results.jsonl"));

            assertEquals(3, call.code(), call.err());
            DifyExecTest.Golden.check("status.txt", masked(call.out()));
        }

        @Test
        void isThisObject() throws IOException {
            mixed().save();

            var call = call("status", "--json", "-i", path("data.csv"), "-o", path("results.jsonl"));

            DifyExecTest.Golden.check("status-json.txt", call.out().replace(",\"", ",\n\""));
        }

        @Test
        void leavesOutTheTimeBetweenSessions() throws IOException {
            var written = batch().success("a", "", "{}");
            written.second = 100_000;
            written.event("session", 100_000, line -> line.put("format", 1)).success("b", "", "{}").save();

            var json = JSON.readTree(call("status", "--json", "-o", path("results.jsonl")).out());

            assertEquals(4.0, json.path("running_seconds").asDouble());
            assertEquals(0.5, json.path("rows_per_second").asDouble());
        }

        @Test
        void findsTheResultsThatWereWrittenWhileItRead() throws IOException {
            mixed().save();
            var late = "{\"id\":\"late\",\"status\":\"success\",\"outputs\":{}}\n";
            Files.writeString(folder.resolve("results.jsonl.log"), "{\"event\":\"end\",\"t\":\"" + NOON
                    + "\",\"id\":\"late\",\"user\":\"u\",\"outcome\":\"succeeded\"}\n", StandardOpenOption.APPEND);
            var writing = new DifyExec.Reading() {
                @Override
                public void event(DifyExec.Event event, long at) {
                    if (!(event instanceof DifyExec.Event.End end && end.id().equals("late"))) return;
                    try {
                        Files.writeString(folder.resolve("results.jsonl"), late, StandardOpenOption.APPEND);
                    } catch (IOException problem) {
                        throw new UncheckedIOException(problem);
                    }
                }
            };

            var batch = DifyExec.Batch.peek(DifyExec.BatchFiles.of(folder.resolve("results.jsonl")), Optional.empty(),
                    writing);

            assertEquals(4, batch.index().count(DifyExec.Standing.SUCCEEDED));
            assertEquals(0, JSON.readTree(DifyExec.StatusView.json(batch)).path("lost_results").asInt());
        }

        @ParameterizedTest
        @EnumSource(DifyExec.Standing.class)
        void isColouredOnATerminalAlone(DifyExec.Standing standing) {
            assertTrue(new DifyExec.Paint(true).by(standing, "x").matches("\u001b\\[\\d+mx\u001b\\[0m"));
            assertEquals("x", DifyExec.Paint.NONE.by(standing, "x"));
            assertFalse(DifyExec.Paint.of(DifyExec.Env.of(Map.of("NO_COLOR", "1"))).on());
            assertFalse(DifyExec.Paint.of(DifyExec.Env.of(Map.of("TERM", "dumb"))).on());
        }

        @Test
        void isUnharmedByWhatServersAndFilesSay() throws IOException {
            var written = batch();
            int n = 0;
            for (var text : HOSTILE) written.ended("id" + n++ + text.replaceAll("[\\p{Cntrl}]", ""), text, "failed", text);
            written.save();

            var out = call("status", "-o", path("results.jsonl")).out();

            assertTrue(out.codePoints().noneMatch(c -> c != '\n' && (Character.isISOControl(c)
                    || Character.getType(c) == Character.FORMAT || c == 0x2028 || c == 0x2029)), out);
        }
    }

    @Nested
    class WrongFiles {
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                results                 | log   | said
                -                       | -     | results.jsonl: no such batch
                ''                      | -     | results.jsonl: empty, and there is neither
                '\uFEFF'                | -     | results.jsonl: empty, and there is neither
                ''                      | ''    | results.jsonl: empty, and there is neither
                'id,text'               | -     | results.jsonl: no line of it is a result
                '{"id":"z","outputs":{}}'| -    | data.csv: none of its 6 ids is in
                """)
        void areNamedInOneSentence(String results, String log, String said) throws IOException {
            mixed().save();
            for (var file : List.of("results.jsonl", "results.jsonl.log", "results.jsonl.retry"))
                Files.delete(folder.resolve(file));
            if (!"-".equals(results)) Files.writeString(folder.resolve("results.jsonl"), results);
            if (!"-".equals(log)) Files.writeString(folder.resolve("results.jsonl.log"), log);
            Files.writeString(folder.resolve("out"), "kept");

            assertAll(Stream.of(List.of("status"), List.of("status", "--json"))
                    .map(words -> () -> {
                        var call = call(Stream.concat(words.stream(), Stream.of("-i", path("data.csv"), "-o",
                                path("results.jsonl"))).toArray(String[]::new));

                        assertEquals(2, call.code(), call.out());
                        assertEquals("", call.out());
                        assertTrue(sentence(call).contains(said), call.err());
                    }));
        }

        @Test
        void resultsThatAreGoneAreNamed() throws IOException {
            mixed().save();
            Files.delete(folder.resolve("results.jsonl"));

            var call = call("status", "-o", path("results.jsonl"));

            assertEquals(2, call.code());
            assertTrue(sentence(call).contains("the log knows of 3 results in it; 'run --rebuild' fetches them"), call.err());
        }
    }
}

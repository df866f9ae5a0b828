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
import picocli.CommandLine;

import module java.base;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.assertAll;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
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
                public void event(DifyExec.Index index, DifyExec.Event event, long at) {
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

            assertAll(Stream.of(List.of("status"), List.of("status", "--json"), List.of("export", "--force", path("out")))
                    .map(words -> () -> {
                        var call = call(Stream.concat(words.stream(), Stream.of("-i", path("data.csv"), "-o",
                                path("results.jsonl"))).toArray(String[]::new));

                        assertEquals(2, call.code(), call.out());
                        assertEquals("", call.out());
                        assertTrue(sentence(call).contains(said), call.err());
                        assertEquals("kept", Files.readString(folder.resolve("out")));
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

    // ── Export ──────────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class TheSpreadsheet {
        private Call export(String... more) {
            return call(Stream.concat(Stream.of("export", "-i", path("data.csv"), "-o", path("results.jsonl")),
                    Stream.of(more)).toArray(String[]::new));
        }

        private String written(String... more) throws IOException {
            var call = export(Stream.concat(Stream.of(more), Stream.of("--force", path("out.csv"))).toArray(String[]::new));
            assertEquals(0, call.code(), call.err());
            return Files.readString(folder.resolve("out.csv"));
        }

        /// RFC 4180 to the letter; whatever is not, is an error.
        private static List<List<String>> strictly(String csv) {
            assertEquals('\uFEFF', csv.charAt(0));
            var rows = new ArrayList<List<String>>();
            var row = new ArrayList<String>();
            int at = 1;
            while (at < csv.length()) {
                var cell = new StringBuilder();
                if (csv.charAt(at) == '"') {
                    for (at++; csv.charAt(at) != '"' || csv.startsWith("\"\"", at); at++) {
                        cell.append(csv.charAt(at));
                        if (csv.charAt(at) == '"') at++;
                    }
                    at++;
                } else for (; csv.charAt(at) != ',' && csv.charAt(at) != '\r'; at++) {
                    assertTrue(csv.charAt(at) != '"' && csv.charAt(at) != '\n', () -> "unquoted: " + cell);
                    cell.append(csv.charAt(at));
                }
                row.add(cell.toString());
                if (csv.charAt(at) == ',') at++;
                else {
                    assertTrue(csv.startsWith("\r\n", at), () -> "no line end after " + cell);
                    at += 2;
                    rows.add(List.copyOf(row));
                    row.clear();
                }
            }
            assertTrue(row.isEmpty(), "the last line has no end");
            return rows;
        }

        @Test
        void isThisFile() throws IOException {
            mixed().save();

            DifyExecTest.Golden.check("export.txt", written());
        }

        @Test
        void canBeOfTheFailedRowsAlone() throws IOException {
            mixed().save();

            var rows = strictly(written("--failed"));

            assertEquals(List.of("id", "text", "status", "error", "run_id", "attempts", "seconds", "tokens", "price",
                    "currency"), rows.getFirst());
            assertEquals(List.of("d", "e"), rows.stream().skip(1).map(List::getFirst).toList());
        }

        @Test
        void rawIsCellForCellWhatTheResultsHold() throws IOException {
            var written = batch();
            int n = 0;
            for (var text : HOSTILE) written.success("id" + n++, text,
                    JSON.createObjectNode().put("text", text).put("n", n).put(text, "x").toString());
            written.success("long", "", JSON.createObjectNode().put("text", "x,\"".repeat(400_000)).toString()).save();

            var rows = strictly(written("--raw"));

            var column = rows.getFirst();
            var results = Files.readString(folder.resolve("results.jsonl")).replace("\uFEFF", "").lines().toList();
            assertEquals(results.size() + 1, rows.size());
            for (int i = 0; i < results.size(); i++) {
                var result = JSON.readTree(results.get(i));
                var row = rows.get(i + 1);
                assertEquals(result.path("id").asText(), row.getFirst());
                for (var output : result.path("outputs").properties())
                    assertEquals(output.getValue().asText().replace('\ud800', '?'),
                            row.get(column.indexOf("output." + output.getKey().replace('\ud800', '?'))));
            }
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, quoteCharacter = '`', delimiter = '|', textBlock = """
                cell                | written
                =1+1                | '=1+1
                -1+cmd              | '-1+cmd
                @SUM(1)             | '@SUM(1)
                +cmd                | '+cmd
                ` =1+1`             | ` =1+1`
                -1                  | -1
                +49.5               | +49.5
                -1.5e-3             | -1.5e-3
                -                   | '-
                --1                 | '--1
                it's                | it's
                1-1                 | 1-1
                """)
        void keepsASpreadsheetFromRunningText(String cell, String written) throws IOException {
            batch().success("a", cell, JSON.createObjectNode().put("o", cell).toString()).save();

            var row = strictly(written()).get(1);

            assertEquals(List.of(written, written), row.subList(1, 3));
            assertEquals(List.of(cell, cell), strictly(written("--raw")).get(1).subList(1, 3));
        }

        @Test
        void lettingControlCharactersAndFormulasThroughTakesRaw() throws IOException {
            var written = batch();
            int n = 0;
            for (var text : HOSTILE) written.ended("id" + n++, text, "failed", text);
            written.save();

            for (var row : strictly(written())) for (var cell : row) {
                assertTrue(cell.chars().noneMatch(c -> c < ' ' && c != '\t' || c == 0x7f || c == 0x9b), cell);
                assertFalse(cell.matches("(?s)[=+@-].*") && !cell.matches("[+-]?[\\d.]+"), cell);
            }
        }

        @Test
        void keepsNestedOutputsAndNumbersAsTheyWereWritten() throws IOException {
            batch().success("a", "", "{\"deep\":{\"n\":12345678901234567890,\"p\":1.10},\"big\":12345678901234567890,"
                    + "\"price\":1.10,\"no\":null,\"yes\":true}").save();

            var rows = strictly(written());

            assertEquals(List.of("output.deep", "output.big", "output.price", "output.no", "output.yes"),
                    rows.getFirst().subList(2, 7));
            assertEquals(List.of("{\"n\":12345678901234567890,\"p\":1.10}", "12345678901234567890", "1.10", "", "true"),
                    rows.get(1).subList(2, 7));
        }

        @Test
        void readsResultsOfTheOriginalTool() throws IOException {
            Files.writeString(folder.resolve("data.csv"), "id,status\na,new\nb,old\n");
            Files.writeString(folder.resolve("results.jsonl"), """
                    \uFEFF{"id": "a", "status": "success", "outputs": {"outputs": {"answer": "1"}}, "retry_count": 0}
                    {"id": "a", "status": "success", "outputs": {"outputs": {"answer": "2"}}, "retry_count": 0}
                    """);

            assertEquals(List.of(
                    List.of("id", "status", "output.answer", "run.status", "error", "run_id", "attempts", "seconds",
                            "tokens", "price", "currency"),
                    List.of("a", "new", "2", "succeeded", "", "", "", "", "", "", ""),
                    List.of("b", "old", "", "pending", "", "", "", "", "", "", "")), strictly(written()));
        }

        @Test
        void goesToStandardOutputAsUtf8() throws IOException {
            batch().success("a", "größer", "{}").save();
            var bytes = new ByteArrayOutputStream();
            var command = new CommandLine(new DifyExec.Export(bytes));

            assertEquals(0, command.setErr(new PrintWriter(new StringWriter())).execute("-i", path("data.csv"), "-o",
                    path("results.jsonl"), "-"));

            assertEquals("größer", strictly(bytes.toString(UTF_8)).get(1).get(1));
        }

        @Test
        void namesTheIdsThatTheCsvLacks() throws IOException {
            mixed().save();
            Files.writeString(folder.resolve("data.csv"), "id,text\na,1\ne,2\nnew,3\n");

            var call = export(path("out.csv"));

            assertEquals(2, call.code());
            assertTrue(sentence(call).contains("lacks 3 ids of"), call.err());
            assertTrue(sentence(call).contains("(b, c, d), and 1 id of it has no outcome"), call.err());
            assertFalse(Files.exists(folder.resolve("out.csv")));
            assertEquals(List.of("a", "e", "new"), strictly(written()).stream().skip(1).map(List::getFirst).toList());
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                file              | option  | said
                there.csv         |         | is there already; --force writes over it
                data.csv          | --force | is both input and output
                results.jsonl     | --force | is both input and output
                results.jsonl.log | --force | is both input and output
                .                 | --force | a folder
                none/out.csv      | --force | there is no folder
                """)
        void writesOverNothingThatMatters(String file, String option, String said) throws IOException {
            mixed().save();
            Files.writeString(folder.resolve("there.csv"), "kept");
            var before = contents();

            var call = option == null ? export(path(file)) : export(option, path(file));

            assertEquals(2, call.code());
            assertTrue(sentence(call).contains(said), call.err());
            assertEquals(before, contents());
        }

        @Test
        void leavesNoHalfFile() throws IOException {
            mixed().save();
            Files.writeString(folder.resolve("out.csv"), "kept");

            var problem = assertThrows(DifyExec.Unusable.class,
                    () -> DifyExec.Draft.write(folder.resolve("out.csv"), out -> {
                        out.write(1);
                        throw new IOException("No space left on device");
                    }));

            assertTrue(problem.getMessage().endsWith("out.csv: cannot be written (No space left on device)"));
            assertEquals("kept", contents().get("out.csv"));
            assertEquals(5, contents().size());
        }

        private Map<String, String> contents() throws IOException {
            var contents = new TreeMap<String, String>();
            try (var files = Files.list(folder)) {
                for (var file : files.toList()) contents.put(file.getFileName().toString(), Files.readString(file));
            }
            return contents;
        }
    }
}

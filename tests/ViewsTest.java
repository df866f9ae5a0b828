package difyexec;

import com.fasterxml.jackson.databind.JsonNode;
import com.opencsv.CSVReaderBuilder;
import com.opencsv.RFC4180ParserBuilder;
import com.opencsv.exceptions.CsvException;
import org.junit.jupiter.api.*;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.api.parallel.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;
import module java.net.http;

import static difyexec.DifyExec.*;
import static difyexec.Given.tree;
import static difyexec.DifyExec.Event.*;
import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.*;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

/// The views of a batch: the status, the report and the spreadsheet, each made from files as
/// `run` leaves them.
final class ViewsTest extends WholeCommand {
    /// Text that must do no harm anywhere.
    private static final List<String> HOSTILE = List.of("<script>hit()</script>", "</script><script>hit()</script>",
            "\" onerror=hit() x=\"", "<!--<script>", "\u001b[31mred\u001b]0;title\u0007",
            "=HYPERLINK(\"http://x.example\")", "-1+cmd|' /C calc'!A0", "@SUM(1)", "+1+1", "line\u2028para\u2029end",
            "nul\0nul", "\ud800 alone", "\u202eturned");

    // ── Helpers ─────────────────────────────────────────────────────────────────────────────────────────────────────

    private Call call(String... args) throws IOException {
        return call(Map.of("NO_COLOR", "1"), args);
    }

    /// A batch whose rows take two seconds each, with its CSV.
    private final class Written {
        private final StringBuilder csv = new StringBuilder("id,text\n");
        private final Given.PastBatch past = new Given.PastBatch(2, 40, 0.002).session();

        Written row(String id, String text) {
            csv.append(Stream.of(id, text).map(cell -> '"' + cell.replace("\"", "\"\"") + '"')
                    .collect(Collectors.joining(",", "", "\n")));
            return this;
        }

        /// @param outputs a text is JSON
        Written success(String id, String text, Object outputs) {
            row(id, text).past.attempt(id).result(id, outputs, "inputs", Json.object("id", id, "text", text));
            return this;
        }

        Written ended(String id, String text, String outcome, String error) {
            row(id, text).past.ended(id, outcome, error);
            return this;
        }

        void save() throws IOException {
            Files.write(file("data.csv"), csv.toString().getBytes(UTF_8));
            past.save(file("results.jsonl"));
        }
    }

    /// Returns three successes, a retried failure, an unknown row and one that has not run yet.
    private Written mixed() {
        var batch = new Written().success("a", "first", "{\"answer\":\"yes\",\"score\":0.5}")
                .success("b", "second", "{\"answer\":\"no\"}")
                .success("c", "third", "{\"answer\":\"a, \\\"b\\\"\",\"list\":[1,2]}");
        batch.past.ended("d", "again", "overloaded");
        return batch.ended("d", "fourth", "failed", "no such city").ended("e", "fifth", "unknown", "the line went dead")
                .row("f", "sixth");
    }

    // ── Status ──────────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class TheStatusTable {
        @Test
        void countsRunsWithoutAPrice() throws IOException {
            var batch = new Written().success("a", "x", "{}").row("b", "x");
            batch.past.attempt("b").end("b", "failed", "tokens", 9, "price", null);
            batch.save();

            call("status", "-o", output()).shows(
                    "cost           0.002 USD, and 1 run without a price (estimated total: 0.004 USD)\n");
            var json = statusJson();
            assertEquals(1, json.path("runs_without_price").asInt());
            assertEquals(49, json.path("total_tokens").asInt());
        }

        @Test
        void listsTheWorkflowVersionsOfTheResults() throws IOException {
            new Given.PastBatch(1, 0, 0).result("r", Map.of(), "workflow_id", "v-1")
                    .result("s", Map.of(), "workflow_id", "v-2").save(file("results.jsonl"));

            call("status", "-o", output()).shows("2 rows · versions v-1, v-2\n");
            assertEquals("[\"v-1\",\"v-2\"]", statusJson().path("versions").toString());
        }

        @Test
        void matchesItsGoldenFile() throws IOException {
            mixed().save();

            var call = ofBatch("status").exits(3);

            Given.Golden.check("status.txt", call.out().replace(folder.toString(), "FOLDER")
                    .replaceAll("\\d{4}-\\d\\d-\\d\\d \\d\\d:\\d\\d:\\d\\d", "TIME")
                    .replaceAll(" [+-]\\d\\d:\\d\\d\\)", " ZONE)"));
        }

        @Test
        void matchesItsGoldenFileInJson() throws IOException {
            mixed().save();

            var call = ofBatch("status", "--json");

            Given.Golden.check("status-json.txt", call.out().replace(",\"", ",\n\""));
        }

        @ParameterizedTest
        @ValueSource(strings = {"status -o ", "status --json -o ", "export --help "})
        void reportsThatStandardOutputCannotBeWritten(String words) throws IOException {
            var own = Path.of("/proc/self/fd/1");
            Assumptions.assumeFalse(Files.isSymbolicLink(own)
                    && Files.readSymbolicLink(own).toString().startsWith("pipe:"), "the end of a pipe is no error");
            mixed().save();
            var closed = OutputStream.nullOutputStream();
            closed.close();
            var err = new StringWriter();
            var line = commandLine(Given.env(Map.of())).setOut(new PrintWriter(closed))
                    .setErr(new PrintWriter(err, true));

            int code = line.execute((words + output()).split(" "));

            assertEquals(Exit.STOPPED.code, code);
            assertTrue(err.toString().startsWith("difyexec: standard output: "), err::toString);
            assertEquals(1, err.toString().lines().count(), err::toString);
        }

        @Test
        void readsStandardInputOnlyOnceForTheTableAndTheReport() throws IOException {
            mixed().save();
            var before = System.in;
            try (var in = Files.newInputStream(file("data.csv"))) {
                System.setIn(in);

                call("status", "-i", "-", "-o", output(), "--html", path("report.html")).exits(3)
                        .shows("pass the same rows to run with -i").omits("Next: ");

                assertEquals("sixth", rows().get(5).at("/inputs/text").asText());
            } finally {
                System.setIn(before);
            }
        }

        @Test
        void excludesTheTimeBetweenSessionsFromTheRate() throws IOException {
            var written = new Written().success("a", "", "{}");
            written.past.second = 100_000;
            written.past.session();
            written.success("b", "", "{}").save();

            var json = statusJson();

            assertEquals(4.0, json.path("running_seconds").asDouble());
            assertEquals(0.5, json.path("rows_per_second").asDouble());
        }

        @Test
        void countsARowAsInFlightIfItsResultIsJustBeingWritten() throws IOException {
            mixed().save();
            var late = "{\"id\":\"late\",\"status\":\"success\",\"outputs\":{}}\n";
            var attempt = Json.object("event", "attempt", "t", Given.NOON, "id", "late", "n", 0, "user", "u",
                    "mode", "blocking", "results", Files.size(file("results.jsonl")) + late.length());
            Files.writeString(file("results.jsonl.log"), Json.text(attempt) + "\n", StandardOpenOption.APPEND);
            var writing = new Batch.Listener() {
                @Override
                public void result(int entry, Lines line) {}

                @Override
                public void event(Index index, Event event, long at) {
                    if (!(event instanceof AttemptEvent attempt && attempt.id().equals("late"))) return;
                    try {
                        Files.writeString(file("results.jsonl"), late, StandardOpenOption.APPEND);
                    } catch (IOException problem) {
                        throw new UncheckedIOException(problem);
                    }
                }
            };

            var batch = Batch.peek(BatchFiles.of(file("results.jsonl")), Optional.empty(),
                    true, writing);

            assertEquals(3, batch.index().count(RowStatus.SUCCEEDED));
            assertEquals(1L, StatusView.json(batch).get("in_flight"));
            assertEquals(0, StatusView.json(batch).get("lost_results"));
        }

        @Test
        void groupsErrorsThatDifferOnlyInIdsAndTimes() throws IOException {
            new Written()
                    .ended("a", "", "unknown", "run 0b7f3a9e-1c2d-4e5f-8a9b-0c1d2e3f4a5b says running after 5 min 3 s")
                    .ended("b", "", "unknown", "run 1c8f4b0f-2d3e-4f60-9bac-1d2e3f405b6c says running after 59 s")
                    .ended("c", "", "failed", "HTTP 503 from http://10.0.0.1/a/17")
                    .ended("d", "", "failed", "HTTP 503 from http://10.0.0.1/a/4711").save();

            var status = call("status", "-o", output(), "--html", path("report.html")).out();
            var unknown = "unknown: run … says running after …";
            var failed = "HTTP 503 from http://…/a/…";
            assertTrue(status.contains("  2 × " + unknown + " (a, b)\n  2 × " + failed + " (c, d)\n"), status);
            assertEquals(List.of("unknown 2", "failed 2"), data("id=\"batch\"").getFirst().path("causes").valueStream()
                    .map(cause -> cause.path("outcome").asText() + " " + cause.path("count")).toList());
            assertEquals("[0, 0, 1, 1]", rows().stream().map(row -> row.path("cause").asInt()).toList().toString());
        }

        @ParameterizedTest
        @EnumSource(RowStatus.class)
        void isColouredOnlyOnATerminal(RowStatus status) {
            assertTrue(new Ansi(true).by(status, "x").matches("\u001b\\[\\d+mx\u001b\\[0m"));
            assertEquals("x", new Ansi(false).by(status, "x"));
            assertFalse(Ansi.of(Given.env(Map.of("NO_COLOR", "1"))).isOn());
            assertFalse(Ansi.of(Given.env(Map.of("TERM", "dumb"))).isOn());
        }

        @Test
        void printsServerTextsWithoutControlCharacters() throws IOException {
            var written = new Written();
            int n = 0;
            for (var text : HOSTILE)
                written.ended("id" + n++ + text.replaceAll("[\\p{Cntrl}]", ""), text, "failed", text);
            written.save();

            call("status", "-o", output()).isSafeOnATerminal();
        }
    }

    @Nested
    class UnusableBatchFiles {
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                results                 | log   | named
                -                       | -     | results.jsonl
                ''                      | -     | results.jsonl
                '\uFEFF'                | -     | results.jsonl
                ''                      | ''    | results.jsonl
                'id,text'               | -     | results.jsonl
                'abc'                   | -     | results.jsonl
                '{"id":"z","outputs":{}}'| -    | results.jsonl
                '{"id":"z","status":"open"}'| - | results.jsonl
                '{"id":" ","status":"success"}'| - | results.jsonl
                -                       | 'id,text' | results.jsonl.log
                ''                      | 'abc' | results.jsonl.log
                """)
        void areRejectedByNameWithoutWritingAnything(String results, String log, String named) throws IOException {
            mixed().save();
            for (var name : List.of("results.jsonl", "results.jsonl.log")) Files.delete(file(name));
            if (!"-".equals(results)) Files.writeString(file("results.jsonl"), results);
            if (!"-".equals(log)) Files.writeString(file("results.jsonl.log"), log);
            Files.writeString(file("out"), "kept");

            call(Map.of(), "shell", "-o", output()).exits(2).reports(named + ": ");
            for (var command : List.of("status", "status --json", "export --force OUT", "status --force --html OUT")) {
                var words = command.replace("OUT", path("out")).split(" ");
                ofBatch(words[0], Arrays.copyOfRange(words, 1, words.length)).exits(2).showsNothing()
                        .reports(named + ": ");
            }
            assertEquals("kept", content("out"));
        }

        @Test
        void resultsAreCountedAsLostIfTheirFileIsMissing() throws IOException {
            var batch = mixed();
            batch.save();
            Files.delete(file("results.jsonl"));

            call("status", "-o", output()).exits(3).shows("the results lack the line of 3 rows");
            assertEquals(3, statusJson().path("lost_results").asInt());
        }

        @Test
        void aPathThatIsNotARegularFileIsRejected() throws IOException {
            mixed().save();
            Files.createDirectory(file("other.jsonl.log"));

            call("status", "-o", "/dev/null").reports("/dev/null: ");
            call("status", "-o", path("other.jsonl")).reports("other.jsonl.log: ");
            call("status", "-o", output(), "--html", "-").reports("difyexec: -: ");
            ofBatch("export", "--force", "/dev/null").reports("/dev/null: ");
        }
    }

    // ── Export ──────────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class TheExportedCsv {
        private String written(String... more) throws IOException {
            ofBatch("export", words(List.of("--force", path("out.csv")), more)).exits(0);
            return content("out.csv");
        }

        /// Uses another CSV reader, which accepts only RFC 4180.
        private static List<List<String>> strictly(String csv) throws IOException {
            assertEquals('\uFEFF', csv.charAt(0));
            assertTrue(csv.endsWith("\r\n"), csv);
            try (var rows = new CSVReaderBuilder(new StringReader(csv.substring(1)))
                    .withCSVParser(new RFC4180ParserBuilder().build()).build()) {
                return rows.readAll().stream().map(List::of).toList();
            } catch (CsvException problem) {
                throw new IOException(problem);
            }
        }

        @Test
        void matchesItsGoldenFile() throws IOException {
            mixed().save();

            Given.Golden.check("export.txt", written());
        }

        @Test
        void containsOnlyFailedRowsOnRequest() throws IOException {
            mixed().save();

            var rows = strictly(written("--failed"));

            assertEquals(List.of("id", "text", "status", "error", "run_id", "retries", "seconds", "tokens", "price",
                    "currency", "edited"), rows.getFirst());
            assertEquals(List.of("d", "e"), rows.stream().skip(1).map(List::getFirst).toList());
        }

        @Test
        void keepsOutputsUnescapedInRawMode() throws IOException {
            var written = new Written();
            int n = 0;
            for (var text : HOSTILE)
                written.success("id" + n++, text.replace("\u001b", "ESC"), Json.object("text", text, "n", n, text, "x"));
            written.success("long", "", Map.of("text", "x,\"".repeat(400_000))).save();

            var rows = strictly(written("--raw"));

            var column = rows.getFirst();
            var results = content("results.jsonl").replace("\uFEFF", "").lines().toList();
            assertEquals(results.size() + 1, rows.size());
            for (int i = 0; i < results.size(); i++) {
                var result = tree(results.get(i));
                var row = rows.get(i + 1);
                assertEquals(result.path("id").asText(), row.getFirst());
                for (var output : result.path("outputs").properties())
                    assertEquals(output.getValue().asText().replace('\ud800', '?'),
                            row.get(column.indexOf("output." + output.getKey().replace('\ud800', '?'))));
            }
            for (var row : strictly(written())) for (var cell : row) {
                assertTrue(cell.chars().noneMatch(c -> c < ' ' && c != '\t' || c == 0x7f || c == 0x9b), cell);
                assertFalse(cell.matches("(?s)[=+@-].*") && !cell.matches("[+-]?[\\d.]+"), cell);
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
        void escapesCellsThatASpreadsheetWouldRunAsFormulas(String cell, String written) throws IOException {
            new Written().success("a", cell, Map.of("o", cell)).save();

            var row = strictly(written()).get(1);

            assertEquals(List.of(written, written), row.subList(1, 3));
            assertEquals(List.of(cell, cell), strictly(written("--raw")).get(1).subList(1, 3));
        }

        @Test
        void keepsNestedOutputsAndNumbersUnchanged() throws IOException {
            new Written().success("a", "", "{\"deep\":{\"n\":12345678901234567890,\"p\":1.10},"
                    + "\"big\":12345678901234567890,\"price\":1.10,\"no\":null,\"yes\":true}").save();

            var rows = strictly(written());

            assertEquals(List.of("output.deep", "output.big", "output.price", "output.no", "output.yes"),
                    rows.getFirst().subList(2, 7));
            assertEquals(List.of("{\"n\":12345678901234567890,\"p\":1.10}", "12345678901234567890", "1.10", "", "true"),
                    rows.get(1).subList(2, 7));
        }

        @Test
        void usesTheDelimiterOfTheInput() throws IOException {
            new Written().success("a", "x,y", "{\"o\":\"p;q\"}").save();
            Files.writeString(file("data.csv"), "id|text\na|\"x,y\"\n");

            assertTrue(written("--delimiter", "|").contains("\r\na|\"x,y\"|\"p;q\"|succeeded|"));
        }

        @Test
        void marksRowsThatRanWithEditedInputs() throws IOException {
            var batch = new Written().success("a", "as in the CSV", "{}").row("b", "");
            batch.past.attempt("b").result("b", Map.of(), "edited", true, "inputs",
                    Map.of("id", "b", "text", "better"));
            batch.save();

            assertEquals(List.of("edited", "", "text"), strictly(written()).stream().map(List::getLast).toList());
            report();
            assertEquals(List.of(false, true), rows().stream().map(row -> row.path("edited").asBoolean()).toList());
        }

        @Test
        void containsResultsThatTheOriginalToolWrote() throws IOException {
            Files.writeString(file("data.csv"), "id,status\na,new\nb,old\n");
            Files.writeString(file("results.jsonl"), """
                    \uFEFF{"id": "a", "status": "success", "outputs": {"outputs": {"answer": "1"}}, "retry_count": 0}
                    {"id": "a", "status": "success", "outputs": {"outputs": {"answer": "2"}}, "retry_count": 0}
                    """);

            assertEquals(List.of(
                    List.of("id", "status", "output.answer", "run.status", "error", "run_id", "retries", "seconds",
                            "tokens", "price", "currency", "edited"),
                    List.of("a", "new", "2", "succeeded", "", "", "", "", "", "", "", ""),
                    List.of("b", "old", "", "pending", "", "", "", "", "", "", "", "")), strictly(written()));
        }

        @Test
        void hasUniqueColumnNamesEvenIfTheInputIsAnExport() throws IOException {
            new Written().success("a", "x", "{\"answer\":\"yes\"}").save();
            Files.writeString(file("data.csv"),
                    "id,text,output.answer,status,run.status,run.run.status\na,x,no,,,\n");

            var once = written();
            Files.writeString(file("data.csv"), once);
            var twice = strictly(written());

            assertEquals(List.of("id", "text", "output.answer", "status", "run.status", "run.run.status",
                    "run.output.answer", "run.run.run.status", "error"), strictly(once).getFirst().subList(0, 9));
            assertEquals(List.of("run.run.output.answer", "run.run.run.run.status", "run.error"),
                    twice.getFirst().subList(16, 19));
            assertEquals(List.of("no", "yes", "yes"), Stream.of(2, 6, 16).map(twice.get(1)::get).toList());
        }

        @Tag("slow")
        @Test
        void isWrittenToStandardOutputAsUtf8InAnyLocale() throws Exception {
            new Written().success("a", "größer", "{}").save();

            var call = ended(start(Map.of("LC_ALL", "C"), "export", "-i", input(), "-o", output(), "-")).exits(0);

            assertEquals("größer", strictly(call.out().replace("\n", "\r\n")).get(1).get(1)); // lines as on any system
        }

        @Test
        void leavesOutRowsThatTheCsvLacks() throws IOException {
            mixed().save();
            Files.writeString(file("data.csv"), "id,text\na,1\ne,2\nnew,3\n");

            ofBatch("export", path("out.csv")).exits(3).says("first: b", "Left out 3 rows");

            assertEquals(List.of("a", "e", "new"), strictly(content("out.csv")).stream().skip(1).map(List::getFirst).toList());
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                file              | option  | said
                there.csv         |         | --force
                data.csv          | --force | data.csv
                results.jsonl     | --force | results.jsonl
                results.jsonl.log | --force | results.jsonl
                results.jsonl.lock | --force | results.jsonl.lock
                link/results.jsonl.retry | --force | results.jsonl.retry
                .                 | --force | a folder
                none/out.csv      | --force | no such folder
                """)
        void overwritesNoOtherFileWithoutForceAndNoBatchFileEver(String file, String option, String said)
                throws IOException {
            mixed().save();
            Files.writeString(file("there.csv"), "kept");
            Files.createSymbolicLink(file("link"), folder);
            var before = contents();

            for (var command : List.of("export", "status --html")) {
                var words = List.of((command + " " + path(file) + " -i " + input() + " -o " + output()).split(" "));
                call(option == null ? words(words) : words(words, option)).exits(2).reports(said);

                assertEquals(before, contents());
            }
        }

        /// The log contains the name of the CSV.
        @Test
        void neverOverwritesTheCsvNamedInTheLog() throws IOException {
            var batch = mixed();
            batch.past.session("input", "data.csv");
            batch.save();
            var before = contents();

            var copy = Files.copy(file("data.csv"), file("copy.csv")).toString();
            before.put("copy.csv", before.get("data.csv"));

            for (var words : List.of(List.of("status", "-o", output(), "--html", input()),
                    List.of("status", "-i", copy, "-o", output(), "--html", input()),
                    List.of("export", "-i", copy, "-o", output(), input()),
                    List.of("compare", output(), output(), "--csv", input()),
                    List.of("compare", output(), output(), "--html", input()))) {
                call(words(words, "--force")).exits(2).reports("data.csv");

                assertEquals(before, contents());
            }
        }

        /// A batch may have had other inputs, and one of them may be missing by now.
        @Test
        void neverOverwritesAnInputOfAnEarlierSession() throws IOException {
            var batch = mixed();
            for (var input : List.of("gone/other.csv", "first.csv", "data.csv")) batch.past.session("input", input);
            batch.save();
            Files.writeString(file("first.csv"), "id,text\n");
            var before = contents();

            for (var words : List.of(List.of("status", "-o", output(), "--html"),
                    List.of("export", "-i", input(), "-o", output()), List.of("compare", output(), output(), "--csv"))) {
                var call = call(words(words, path("first.csv"), "--force")).exits(2).reports("first.csv");

                assertFalse(call.sentence().contains("--force"), call.err());
                assertEquals(before, contents());
            }
        }

        @Test
        void keepsTheOldFileIfWritingFails() throws IOException {
            mixed().save();
            Files.writeString(file("out.csv"), "kept");

            var problem = assertThrows(UncheckedIOException.class,
                    () -> AtomicFile.write(file("out.csv"), out -> {
                        out.write(1);
                        throw new IOException("No space left on device");
                    }));

            assertTrue(Text.reason(problem).contains("out.csv") && Text.reason(problem)
                    .contains("No space left on device"));
            assertEquals("kept", contents().get("out.csv"));
            assertEquals(4, contents().size());
        }

        /// A killed process leaves such files. A link with such a name is not ours, and its target stays.
        @Test
        void removesTemporaryFilesOfAKilledProcess() throws IOException {
            var target = file("out.csv");
            var others = new ArrayList<Path>();
            AtomicFile.write(target, out -> {
                for (int n = 0; n < 2; n++) others.add(file(draft().replaceFirst(
                        "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", UUID.randomUUID().toString())));
                out.write('x');
            });
            var half = Files.writeString(others.getFirst(), "half");
            var link = Files.createSymbolicLink(others.getLast(), Files.writeString(file("kept"), "kept"));

            AtomicFile.write(target, out -> out.write('y'));

            assertFalse(Files.exists(half));
            assertEquals("kept", Files.readString(link));
            assertEquals("y", Files.readString(target));
        }

        @ParameterizedTest
        @ValueSource(strings = {"rw-------", "rw-rw-rw-", "r--r-----", "---------"})
        void keepsThePermissionsOfTheFileItReplaces(String permissions) throws IOException {
            var file = Files.writeString(file("out.csv"), "before");
            Files.setPosixFilePermissions(file, PosixFilePermissions.fromString(permissions));
            var drafts = new ArrayList<String>();

            AtomicFile.write(file, out -> {
                drafts.add(permissions(file(draft())));
                out.write('x');
            });

            assertEquals(List.of(permissions), drafts, "also while it is written");
            assertEquals(permissions, permissions(file));
            Files.setPosixFilePermissions(file, PosixFilePermissions.fromString("rw-------"));
            assertEquals("x", Files.readString(file));
        }

        /// Returns the name of the file that is being written.
        private String draft() throws IOException {
            var drafts = names().stream().filter(name -> name.startsWith(".")).toList();
            assertEquals(1, drafts.size(), drafts::toString);
            return drafts.getFirst();
        }

        private static String permissions(Path file) throws IOException {
            return PosixFilePermissions.toString(Files.getPosixFilePermissions(file));
        }
    }

    // ── Report ──────────────────────────────────────────────────────────────────────────────────────────────────────

    private Call report(String... more) throws IOException {
        return ofBatch("status", words(List.of("--html", path("report.html")), more));
    }

    /// Returns the data in elements of the page with this attribute, as its script reads them.
    private List<JsonNode> data(String attribute) throws IOException {
        var parts = new ArrayList<JsonNode>();
        var blocks = Pattern.compile("(?s)<script type=\"application/json\" " + attribute + ">(.*?)</script>")
                .matcher(content("report.html"));
        while (blocks.find()) parts.add(tree(blocks.group(1)));
        return parts;
    }

    private List<JsonNode> rows() throws IOException {
        return data("class=\"rows\"").stream().flatMap(JsonNode::valueStream).toList();
    }

    @Nested
    class TheHtmlReport {
        @Test
        void containsEveryRowWithInputsOutputsAndAttempts() throws IOException {
            mixed().save();

            report().exits(3);

            var rows = rows();
            assertEquals(List.of("a", "b", "c", "d", "e", "f"), rows.stream().map(row -> row.path("id").asText())
                    .toList());
            assertEquals(Given.json("{'id':'a','outcome':'succeeded','seconds':2.0,'tokens':'40','price':'0.002 USD',"
                    + "'run':'run-a-1','inputs':{'id':'a','text':'first'},'outputs':{'answer':'yes',"
                    + "'score':{'json':'0.5'}},'attempts':[{'start':" + Given.NOON.toEpochMilli()
                    + ",'mode':'blocking','outcome':'succeeded',"
                    + "'seconds':2.0}]}"), rows.getFirst().toString());
            assertEquals(0, rows.get(3).path("cause").asInt(-1));
            assertEquals(List.of("again overloaded", "failed no such city"), rows.get(3).path("attempts").valueStream()
                    .map(attempt -> attempt.path("outcome").asText() + " " + attempt.path("error").asText()).toList());
            assertEquals(Given.json("{'id':'f','outcome':'pending','inputs':{'id':'f','text':'sixth'},'outputs':{},"
                    + "'attempts':[]}"), rows.get(5).toString());
        }

        @Test
        void permitsNoStyleOrScriptButItsOwn() throws Exception {
            mixed().save();
            report();

            var page = content("report.html");
            var policy = Pattern.compile("Content-Security-Policy\" content=\"(.*?)\"").matcher(page);
            assertTrue(policy.find());
            for (var name : List.of("style", "script")) {
                var part = Pattern.compile("(?s)<" + name + ">(.*?)</" + name + ">").matcher(page);
                assertTrue(part.find());
                var hash = Base64.getEncoder().encodeToString(MessageDigest.getInstance("SHA-256").digest(part.group(1)
                        .getBytes(UTF_8)));
                assertTrue(policy.group(1).contains(name + "-src 'sha256-" + hash + "'"), policy.group(1));
                assertFalse(part.find(), "one " + name);
            }
            assertTrue(policy.group(1).startsWith("default-src 'none';"));
            assertFalse(policy.group(1).contains("unsafe"));
            assertFalse(Pattern.compile("<[^>]*\\s(style|src|href|on\\w+)=").matcher(page).find(),
                    "attributes that reach out or run");
        }

        @Test
        void cutsLongValuesAndShowsTheirLength() throws IOException {
            new Written().success("a", "y".repeat(1_000_000), Map.of("long", "😀".repeat(1_500),
                    "short", "x".repeat(2_000), "deep", List.of("z".repeat(5_000)))).save();
            report();

            var row = rows().getFirst();
            assertEquals(2_000, row.at("/inputs/text/text").asText().length());
            assertEquals(1_000_000, row.at("/inputs/text/length").asInt());
            assertEquals("😀".repeat(1_000), row.at("/outputs/long/text").asText());
            assertEquals(3_000, row.at("/outputs/long/length").asInt());
            assertEquals(2_000, row.at("/outputs/short").asText().length());
            assertEquals(5_004, row.at("/outputs/deep/length").asInt());
        }

        @Test
        void replacesAnEarlierReportWithoutForce() throws IOException {
            mixed().save();
            Files.writeString(file("report.html"), "<html>mine</html>");

            report("--force").exits(3);
            report().exits(3);
        }
    }

    // ── A browser ───────────────────────────────────────────────────────────────────────────────────────────────────

    /// Chromium without a window, driven over its DevTools protocol. Its errors and requests are recorded.
    static final class Browser implements AutoCloseable {
        private final Process process;
        private final WebSocket socket;
        private final Map<Integer, CompletableFuture<JsonNode>> answers = new ConcurrentHashMap<>();
        private final AtomicInteger calls = new AtomicInteger();
        private String session = "";
        final Queue<String> complaints = new ConcurrentLinkedQueue<>(), requests = new ConcurrentLinkedQueue<>();

        /// Skips the test if there is no Chromium.
        static Browser start(Path profile) throws Exception {
            var named = Stream.ofNullable(System.getenv("DIFYEXEC_CHROMIUM")).map(Path::of);
            var found = Stream.of("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome")
                    .flatMap(name -> Stream.of(System.getenv("PATH").split(File.pathSeparator))
                            .map(folder -> Path.of(folder, name)));
            var program = Stream.concat(named, found).filter(Files::isExecutable).findFirst();
            assumeTrue(program.isPresent(), "no Chromium here: install one or name it in DIFYEXEC_CHROMIUM");
            return new Browser(program.get(), profile);
        }

        private Browser(Path program, Path profile) throws Exception {
            process = new ProcessBuilder(program.toString(), "--headless", "--no-sandbox", "--disable-gpu",
                    "--no-first-run", "--disable-background-networking", "--remote-debugging-port=0",
                    "--user-data-dir=" + profile, "--hide-scrollbars", "about:blank")
                    .redirectOutput(ProcessBuilder.Redirect.DISCARD).start();
            socket = HttpClient.newHttpClient().newWebSocketBuilder().buildAsync(address(), new Listener()).get();
            var target = call("Target.createTarget", "{'url':'about:blank'}").path("targetId").asText();
            session = call("Target.attachToTarget", "{'flatten':true,'targetId':'" + target + "'}").path("sessionId")
                    .asText();
            for (var domain : List.of("Page", "Runtime", "Network", "Log")) call(domain + ".enable", "{}");
        }

        private URI address() throws IOException {
            var said = new BufferedReader(new InputStreamReader(process.getErrorStream(), UTF_8));
            for (var line = said.readLine(); line != null; line = said.readLine())
                if (line.startsWith("DevTools listening on ")) {
                    Thread.startVirtualThread(() -> said.lines().forEach(_ -> {})); // otherwise its pipe fills up
                    return URI.create(line.substring("DevTools listening on ".length()).strip());
                }
            throw new IOException("the browser did not start");
        }

        JsonNode call(String method, String params) throws Exception {
            int id = calls.incrementAndGet();
            var answer = new CompletableFuture<JsonNode>();
            answers.put(id, answer);
            var message = Given.JSON.createObjectNode().put("id", id).put("method", method);
            message.set("params", tree(params.replace('\'', '"')));
            if (!session.isEmpty()) message.put("sessionId", session);
            socket.sendText(message.toString(), true).get();
            return answer.join();
        }

        private void onMessage(JsonNode message) {
            if (message.has("id")) {
                answers.remove(message.path("id").asInt()).complete(message.path("result"));
                return;
            }
            var params = message.path("params");
            switch (message.path("method").asText()) {
                case "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded" ->
                        complaints.add(params.toString());
                case "Network.requestWillBeSent" -> requests.add(params.path("request").path("url").asText());
                default -> {} // no test needs it
            }
        }

        private final class Listener implements WebSocket.Listener {
            private final StringBuilder parts = new StringBuilder();

            @Override
            public CompletionStage<?> onText(WebSocket from, CharSequence text, boolean last) {
                parts.append(text);
                if (last) {
                    onMessage(tree(parts.toString()));
                    parts.setLength(0);
                }
                from.request(1);
                return null;
            }
        }

        /// Opens the page and waits until its rows are read.
        void open(Path page) throws Exception {
            complaints.clear();
            requests.clear();
            call("Page.navigate", "{'url':'" + page.toUri() + "'}");
            until("document.documentElement.dataset.ready === 'yes'");
        }

        /// Checks that the page reported no problem and requested nothing else.
        void isQuiet(Path page) {
            assertEquals(List.of(), List.copyOf(complaints));
            assertEquals(List.of(page.toUri().toString()), List.copyOf(requests));
        }

        JsonNode evaluate(String script) throws Exception {
            var params = Given.JSON.createObjectNode().put("expression", script).put("returnByValue", true)
                    .put("awaitPromise", true);
            var answer = call("Runtime.evaluate", params.toString().replace("'", "\\u0027"));
            assertFalse(answer.has("exceptionDetails"), answer::toString);
            return answer.path("result").path("value");
        }

        String text(String selector) throws Exception {
            return evaluate("document.querySelector('" + selector + "').textContent").asText();
        }

        List<String> texts(String selector) throws Exception {
            return evaluate("[...document.querySelectorAll('" + selector + "')].map(e => e.textContent)").valueStream()
                    .map(JsonNode::asText).toList();
        }

        void until(String condition) throws Exception {
            evaluate("new Promise(done => { const look = () => { try { if (" + condition
                    + ") return done(true); } catch {} setTimeout(look, 10); }; look(); })");
        }

        void click(String selector) throws Exception {
            evaluate("document.querySelector('" + selector + "').scrollIntoView({block: 'center'})");
            var box = evaluate("(b => [b.x + Math.min(20, b.width / 2), b.y + b.height / 2])(document.querySelector('"
                    + selector + "').getBoundingClientRect())");
            for (var type : List.of("mousePressed", "mouseReleased"))
                call("Input.dispatchMouseEvent", "{'type':'%s','x':%s,'y':%s,'button':'left','clickCount':1}"
                        .formatted(type, box.get(0), box.get(1)));
        }

        void type(String text) throws Exception {
            call("Input.insertText", Given.JSON.createObjectNode().put("text", text).toString());
        }

        @Override
        public void close() throws Exception {
            session = "";
            call("Browser.close", "{}");
            if (!process.waitFor(10, TimeUnit.SECONDS)) process.destroyForcibly().waitFor();
        }
    }

    @Tag("slow")
    @Nested
    @TestInstance(TestInstance.Lifecycle.PER_CLASS)
    @Execution(ExecutionMode.SAME_THREAD)
    class TheHtmlReportInABrowser {
        private Browser browser;

        @BeforeAll
        void start(@TempDir Path profile) throws Exception {
            browser = Browser.start(profile);
        }

        @AfterAll
        void end() throws Exception {
            if (browser != null) browser.close();
        }

        @AfterEach
        void restoreTheScreen() throws Exception {
            browser.call("Emulation.clearDeviceMetricsOverride", "{}");
            browser.call("Emulation.setEmulatedMedia", "{}");
        }

        /// Opens the report of a batch.
        private void open(Written written) throws Exception {
            written.save();
            report();
            browser.open(file("report.html"));
        }

        private void isQuiet() {
            browser.isQuiet(file("report.html"));
        }

        /// Returns 5,000 rows, of which each tenth failed for one of two causes.
        private Written many() {
            var written = new Written();
            for (int n = 1; n <= 5000; n++) {
                if (n % 10 != 0) written.success("row-" + n, "text " + n, "{\"answer\":\"answer " + n + "\"}");
                else written.ended("row-" + n, "text " + n, "failed", n % 20 == 0 ? "no such city" : "refused");
            }
            return written;
        }

        @Test
        void servesKeyboardsScreenReadersAndLinks() throws Exception {
            open(many());

            assertEquals(0, browser.evaluate("[...document.querySelectorAll('[role=img]:not([aria-label])')].length").asInt());
            assertEquals(0, browser.evaluate("[...document.querySelectorAll('th')].filter(e => !e.textContent).length")
                    .asInt());
            browser.evaluate("location.hash = '#row=no-such'");
            browser.until("at('count').textContent.includes('no-such')");
            browser.evaluate("location.hash = '#row=row-20'");
            browser.until("detail.open");
            assertEquals("close", browser.evaluate("document.activeElement.id").asText());
            var first = browser.text("#detail-id");
            browser.evaluate("detail.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}))");
            assertNotEquals(first, browser.text("#detail-id"));
            browser.evaluate("detail.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft'}))");
            assertEquals(first, browser.text("#detail-id"));
            isQuiet();
        }

        @Test
        void ordersNumbersByValueAndIndentsJsonUnlessADigitWouldBeLost() throws Exception {
            open(many());

            assertTrue(browser.evaluate("compare(1.25, 1.5) < 0 && compare('r-2', 'r-10') < 0").asBoolean());
            assertEquals("{\n  \"a\": \"b c\"\n}", browser.evaluate("pretty('{\"a\":\"b c\"}')").asText());
            assertEquals("[12345678901234567890]", browser.evaluate("pretty('[12345678901234567890]')").asText());
        }

        @Test
        void searchesFiltersSortsAndOpensRowsByClicks() throws Exception {
            open(many());

            assertEquals("5,000 of 5,000 rows", browser.text("#count"));
            assertTrue(browser.text("h1").matches("results.jsonl, \\d{4}-\\d\\d-\\d\\d"), "no input is known");
            assertEquals(200, browser.texts("#body tr").size(), "rows are drawn as needed");
            assertEquals("row-10", browser.text("#body tr td"), "failed rows come first");

            browser.click("#search");
            browser.type("ANSWER 4321");
            browser.until("at('count').textContent === '1 of 5,000 rows'");
            assertEquals("row-4321", browser.text("#body tr td"));

            browser.click("#body tr button");
            browser.until("detail.open");
            assertEquals("row-4321", browser.text("#detail-id"));
            var detail = browser.text("#detail-body");
            for (var part : List.of("text 4321", "answer 4321", "Attempts", "blocking", "0.002 USD"))
                assertTrue(detail.contains(part), () -> part + " in " + detail);
            browser.click("#close");
            browser.until("!detail.open");

            browser.evaluate("search.value = ''; choose()");
            assertEquals("Show more (4,800 left)", browser.text("#more"));
            browser.click("#more");
            assertEquals(400, browser.texts("#body tr").size());
            browser.click(".listed button");
            browser.until("at('count').textContent === '250 of 5,000 rows'");
            browser.click("#table th[data-key=id] button");
            browser.click("#table th[data-key=id] button");
            assertEquals("descending", browser.evaluate("document.querySelector('[data-key=id]').ariaSort").asText());
            assertEquals("row-4990", browser.text("#body tr td"));

            browser.evaluate("search.value = 'nowhere'; choose()");
            assertFalse(browser.evaluate("at('none').hidden").asBoolean());
            browser.click("#reset");
            assertEquals("5,000 of 5,000 rows", browser.text("#count"));
            isQuiet();
        }

        @Test
        void downloadsTheRowsThatMatchTheFilter() throws Exception {
            open(mixed());

            browser.evaluate("at('outcome').value = 'succeeded'; choose()");

            assertEquals("\uFEFF\"Id\",\"Outcome\",\"Seconds\",\"Tokens\",\"Retries\",\"Error\",\"inputs.id\","
                    + "\"inputs.text\",\"outputs.answer\",\"outputs.score\",\"outputs.list\"\r\n"
                    + "\"a\",\"succeeded\",\"2\",\"40\",\"0\",\"\",\"a\",\"first\",\"yes\",\"0.5\",\"\"\r\n"
                    + "\"b\",\"succeeded\",\"2\",\"40\",\"0\",\"\",\"b\",\"second\",\"no\",\"\",\"\"\r\n"
                    + "\"c\",\"succeeded\",\"2\",\"40\",\"0\",\"\",\"c\",\"third\",\"a, \"\"b\"\"\",\"\",\"[1,2]\"\r\n",
                    browser.evaluate("csv()").asText());
            browser.evaluate("HTMLAnchorElement.prototype.click = function() { file = this.download; }; var file");
            browser.click("#download");
            assertEquals("results.csv", browser.evaluate("file").asText());
            assertEquals(List.of("Id", "Outcome", "text"), browser.texts("#heads th").subList(0, 3));
        }

        @ParameterizedTest
        @ValueSource(strings = {"=A1", "=1+cmd|' /C calc'!A0", "+1+A1", "-2+3", "@1", "\t=1", "\r=1"})
        void escapesFormulasInTheDownload(String cell) throws Exception {
            open(new Written().success("a", cell, Map.of("number", "-5", "share", "+1,234.5e-3%")));

            var csv = browser.evaluate("csv()").asText();
            assertTrue(csv.contains("\"'" + cell + "\""), csv);
            assertTrue(csv.contains("\"-5\",\"+1,234.5e-3%\"") || csv.contains("\"+1,234.5e-3%\",\"-5\""), csv);
        }

        @Test
        void printsAllRowsThatHaveNotSucceeded() throws Exception {
            open(many());

            browser.evaluate("window.dispatchEvent(new Event('beforeprint'))");

            assertEquals(500, browser.texts("#body .failed").size());
            assertTrue(browser.text("#left").startsWith("4,000 rows "), browser.text("#left"));
            browser.call("Emulation.setEmulatedMedia", "{'media':'print'}");
            assertTrue(browser.evaluate("at('left').offsetHeight > 0").asBoolean());
            assertTrue(browser.evaluate("at('body').lastChild.offsetHeight < 60").asBoolean(),
                    "its cells are wide enough");
        }

        @Test
        void opensARowByItsLinkAndSelectsItsRunIdByAClick() throws Exception {
            open(new Written().success("a", "", "{}").success("b c+%", "", "{}"));

            browser.click("#body tr:nth-child(2) button");
            browser.until("detail.open");
            var hash = browser.evaluate("location.hash").asText();
            browser.click("#detail-body dd.run pre");
            assertEquals(browser.text("#detail-body dd.run"), browser.evaluate("getSelection().toString()").asText());
            browser.click("#close");
            browser.until("location.hash === ''");
            browser.evaluate("location.hash = '" + hash + "'");
            browser.until("detail.open && at('detail-id').textContent === 'b c+%'");
            isQuiet();
        }

        @Test
        void captionsItsTablesAndOmitsChartsForOneRow() throws Exception {
            open(new Written().ended("a", "", "failed", "refused"));

            assertEquals(List.of(), browser.texts("figure"));
            assertEquals(0, browser.evaluate("document.querySelectorAll('table:not(:has(caption)), th:not([scope])')"
                    + ".length").asInt());
        }

        private List<String> tooltips(String title) throws Exception {
            return browser.evaluate("[...document.querySelectorAll('figure')].find(one => one.textContent.startsWith('"
                    + title + "')).querySelectorAll('g > title').values().map(one => one.textContent).toArray()")
                    .valueStream().map(JsonNode::asText).toList();
        }

        @Test
        void drawsChartsWithTicksAndTooltips() throws Exception {
            var written = new Written();
            for (int n = 0; n < 5; n++) written.success("r" + n, "", "{}");
            written.past.second = 12;
            written.ended("last", "", "failed", "<b>broken</b>").row("other", "").past.attempt("other")
                    .end("other", "succeeded", "price", 1.5, "currency", "CNY");

            open(written);

            assertEquals("Failures by cause", browser.text("#overview h2"));
            assertEquals("<b>broken</b>", browser.text(".listed button"));
            assertEquals(2, browser.texts("figure").size());
            assertEquals(List.of("0", "2", "4", "6"), browser.texts("figure:first-child text[text-anchor=end]"));
            assertTrue(tooltips("Latency").contains("2 to 2.2: 6 succeeded"), tooltips("Latency")::toString);
            assertEquals("14 to 16: 1 succeeded, 1 failed", tooltips("Completed").getLast());
            isQuiet();
        }

        @Test
        void drawsUnknownRowsAsASeriesOfTheirOwn() throws Exception {
            open(new Written().success("a", "", "{}").ended("b", "", "failed", "refused")
                    .ended("c", "", "unknown", "no connection"));

            assertEquals(List.of("succeeded", "failed", "unknown"), browser.texts("figure:last-child figcaption span"));
            assertEquals(1, tooltips("Completed").stream().filter(words -> words.contains("1 unknown")).count());
            assertEquals(1, tooltips("Completed").stream().filter(words -> words.contains("1 failed")).count());
        }

        @Test
        void excludesTheTimeBetweenSessionsFromCharts() throws Exception {
            var written = new Written().success("a", "", "{}");
            written.past.second = 100_000;

            open(written.success("b", "", "{}"));

            assertEquals("70", browser.texts("figure:last-child text[text-anchor=middle]").getLast());
        }

        @Test
        void showsHostileValuesAsPlainText() throws Exception {
            var written = new Written();
            int n = 0;
            for (var text : HOSTILE) {
                var clean = text.replaceAll("[\\p{Cntrl}]", "");
                var cell = text.replace("\u001b", "ESC"); // a CSV with this character is rejected
                written.ended("f" + n + clean, cell, "failed", text);
                written.success("s" + n++ + clean, cell,
                        Json.object("text", text, text, "name", "deep", Map.of(text, text)));
            }
            written.success("long", "", Map.of("text", "<b>".repeat(350_000)));

            open(written);

            assertEquals(2 * HOSTILE.size() + 1, rows().size());
            assertEquals(2, browser.evaluate("document.querySelectorAll('script').length").asInt(), "data and script");
            assertTrue(browser.evaluate("typeof hit === 'undefined'").asBoolean());
            browser.click("#body tr:nth-child(2) button");
            browser.until("detail.open");
            for (int i = 2; i < rows().size(); i++) browser.click("#after");
            assertTrue(browser.evaluate("after.disabled").asBoolean());
            assertTrue(browser.text("#detail-body").contains("cut here; 1,050,000 characters in all"));
            assertEquals(0, browser.evaluate("document.querySelectorAll('#detail script, #body script').length")
                    .asInt());
            isQuiet();
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                width, charts below rows, scheme, background
                1280,  false,             light,  'rgb(246, 246, 244)'
                390,   true,              light,  'rgb(246, 246, 244)'
                390,   true,              dark,   'rgb(19, 21, 24)'
                """)
        void adaptsToNarrowScreensAndADarkColourScheme(int width, boolean below, String scheme, String background)
                throws Exception {
            browser.call("Emulation.setDeviceMetricsOverride",
                    "{'width':%d,'height':800,'deviceScaleFactor':1,'mobile':false}".formatted(width));
            browser.call("Emulation.setEmulatedMedia",
                    "{'features':[{'name':'prefers-color-scheme','value':'%s'}]}".formatted(scheme));

            open(mixed());

            assertEquals(width, browser.evaluate("document.documentElement.scrollWidth").asInt(), "scrolls sideways");
            assertEquals(below, browser.evaluate("at('charts').offsetTop > at('rows').offsetTop").asBoolean());
            assertEquals(background, browser.evaluate("getComputedStyle(document.body).backgroundColor").asText());
            isQuiet();
        }
    }
}

package difyexec;

import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.Given.tree;
import static org.junit.jupiter.api.Assertions.*;

/// Which columns leave the machine, and what follows if a row is no longer as it was sent.
final class SentInputsTest extends WholeCommand {
    @Nested
    class TheColumnsThatAreSent {
        private Simulated dify;

        @BeforeEach
        void start() throws IOException {
            dify = new Simulated("--dify", "1.16.1", "--latency", "10ms", "--columns", "text");
            csv("id,text,mail", "1,hello,ann@example.com");
        }

        /// The form of a pinned version is not known.
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, nullValues = "-", textBlock = """
                declared, options,          sent,         note
                text,     '',               text,         not sent: "mail"
                id text,  '',               id text,      not sent: "mail"
                text,     --no-check,       id text mail, -
                text,     --workflow-id ID, id text mail, form of --workflow-id
                """)
        void areThoseOfTheFormOrAllIfItIsNotKnown(String declared, String options, String sent, String note)
                throws IOException {
            dify.app.publish(SimulatedJob.Published.texts(List.of(declared.split(" "))), Optional.empty());
            var version = dify.app.published();
            var typed = options.isEmpty() ? new String[0] : options.replace("ID", version).split(" ");
            var columns = List.of(sent.split(" "));

            var run = dify.run(typed).exits(0);

            assertEquals(note == null ? 0 : 1, run.notes().stream().filter(text -> note == null
                    ? text.contains("mail") : text.contains(note)).count(), run::toString);
            assertEquals(columns, List.of(keys(tree(dify.bodies("/run").getFirst()).path("inputs")).split(" ")));
            assertEquals("id text mail", keys(result("1").path("inputs")));
            assertEquals(columns, events("session").getFirst().path("columns").valueStream()
                    .map(column -> column.asText()).toList());
            var shown = dify.check(words(List.of("--show", "1"), typed)).exits(0).out();
            assertEquals(columns.contains("mail"), shown.contains("ann@example.com"), shown);
        }

        private int changed(String... csv) throws IOException {
            csv(csv);
            return tree(ofBatch("status", "--json").out()).path("changed_in_input").asInt();
        }

        /// Writes the batch as 0.5.0 did, which sent all columns and logged no success.
        private void asOf050() throws IOException {
            var all = new LinkedHashMap<>(Map.of("id", "1", "text", "hello", "mail", "ann@example.com"));
            var sent = events("attempt").getFirst().path("fingerprint").asText();
            for (var name : List.of("results.jsonl", "results.jsonl.log")) Files.writeString(file(name), content(name)
                    .replace(sent, HexFormat.of().toHexDigits(DifyExec.Fingerprint.hash(all)))
                    .replace("\"columns\":[\"text\"],", "").replace("\"format\":5", "\"format\":4")
                    .replaceAll(".*\"crc32c\".*\n", ""));
        }

        /// Results of 0.5.0, which sent all columns, and results without a log are compared by all their inputs.
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                log,     mail
                present, 0
                0.5.0,   1
                absent,  1
                """)
        void areThoseByWhichARowIsComparedWithItsResult(String log, int mail) throws IOException {
            dify.run().exits(0);
            if (log.equals("0.5.0")) asOf050();
            if (log.equals("absent")) Files.delete(file("results.jsonl.log"));

            assertEquals(0, changed("id,text,mail", "1,hello,ann@example.com"));
            assertEquals(0, changed("text,id,more,mail", "hello,1,new,ann@example.com"));
            assertEquals(mail, changed("id,text,mail", "1,hello,bob@example.com"));
            assertEquals(1, changed("id,text,mail", "1,goodbye,ann@example.com"));
        }

        /// A run that is found for a row as it is now gets the row's inputs, and otherwise those that Dify recorded.
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                log,     text,    mail, changed
                present, hello,   bob,  0
                present, goodbye, ann,  1
                0.5.0,   hello,   ann,  0
                0.5.0,   hello,   bob,  1
                """)
        void areThoseByWhichARowIsComparedWithItsUnfinishedAttempt(String log, String text, String mail, int changed)
                throws IOException {
            dify.run().exits(0);
            Files.writeString(file("results.jsonl"), "");
            if (log.equals("0.5.0")) asOf050();
            csv("id,text,mail", "1," + text + "," + mail + "@example.com");

            dify.run().exits(changed == 0 ? 0 : 3);

            assertEquals(1, dify.runs());
            assertEquals("hello", result("1").at("/inputs/text").asText());
            assertEquals(changed == 0 ? mail + "@example.com" : "", result("1").at("/inputs/mail").asText());
            assertEquals(changed, tree(ofBatch("status", "--json").out()).path("changed_in_input").asInt());
        }
    }

    @Nested
    class AResultOfOtherInputs {
        /// Each answer repeats all variables but the first one.
        private final Simulated dify = new Simulated("--dify", "1.16.1", "--latency", "10ms",
                "--columns", "first,text");

        /// Writes a row for each text, with an id or numbered.
        private void table(boolean isNumbered, String texts) throws IOException {
            var all = List.of(texts.split(" "));
            csv(Stream.concat(Stream.of(isNumbered ? "text,note" : "id,text,note"), IntStream.range(0, all.size())
                    .mapToObj(row -> (isNumbered ? "" : row + 1 + ",") + all.get(row) + ",n" + all.size()))
                    .toArray(String[]::new));
        }

        /// A batch is started with one table and continued with another. Each text of a month is of another row.
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                numbered, before,    after,             options,         exit, sent, changed
                false,    j1 j2 j3,  f1 f2 f3 f4 f5,    '',              2,    0,    3
                false,    f1 f2 f3 f4 f5, j1 j2 j3,     '',              2,    0,    3
                false,    j1 j2 j3,  f1 f2 f3 f4 f5,    --rerun-changed, 0,    5,    0
                false,    j1 j2 j3,  f1 f2 f3 f4 f5,    --keep-changed,  0,    2,    3
                false,    j1 j2 j3,  f1 f2 f3 f4 f5,    --fresh,         0,    5,    0
                false,    a b c,     a b c d,           '',              0,    1,    0
                false,    a b c d,   a b c1 d1,         '',              3,    0,    2
                false,    a b c d,   a b c1 d1,         --keep-changed,  0,    0,    2
                false,    a b c d,   a b c1 d1 e,       '',              3,    1,    2
                false,    a b c d,   a b1 c1 d1,        '',              2,    0,    3
                true,     a b c d,   x a b c d,         '',              2,    0,    4
                true,     a b c d,   a b c x d,         '',              2,    0,    1
                true,     a b c d,   a b c d x,         '',              0,    1,    0
                true,     a b c d,   a b c x d,         --keep-changed,  0,    1,    1
                """)
        void endsARunBeforeAnythingIsSentIfItIsProbablyOfAnotherFile(boolean numbered, String before, String after,
                String options, int exit, int sent, int changed) throws IOException {
            var typed = Stream.of(numbered ? "--id-column=#" : "", options).filter(option -> !option.isEmpty())
                    .toArray(String[]::new);
            table(numbered, before);
            dify.run(Stream.of(typed).limit(numbered ? 1 : 0).toArray(String[]::new)).exits(0);
            table(numbered, after);
            int runs = dify.runs();

            var run = dify.run(typed).exits(exit);

            assertEquals(runs + sent, dify.runs());
            var mix = tree(ofBatch("status", "--json").out()).path("changed_in_input").asInt();
            assertEquals(changed, mix);
            if (exit == 2) run.reports(changed + " of ", "row ", "text was \"", "-o", "--rerun-changed",
                    "--keep-changed");
            else assertEquals(changed, run.notes().stream().filter(note -> note.contains("text was \"")).count()
                    * changed, run::toString);
            if (exit == 3 && sent == 0) run.says(after.split(" ").length + " rows have succeeded", changed + " of them")
                    .omits("every row");
            if (exit == 3) assertTrue(run.next().contains("--rerun-changed"), run::toString);
            if (exit == 2) dify.command("retry").exits(2).reports(changed + " of ");
            // a suggested command would be refused, too
            if (exit == 2) assertTrue(ofBatch("status").out().lines().filter(line -> line.startsWith("Next: "))
                    .noneMatch(line -> line.matches(".* (run|retry) .*")));
            appearsOnlyBesideItsInputs(after.split(" ").length, changed);
        }

        /// Each output says which text it was made from.
        private void appearsOnlyBesideItsInputs(int rows, int changed) throws IOException {
            var export = ofBatch("export", path("out.csv"));
            int others = tree(ofBatch("status", "--json").out()).path("ids_not_in_input").asInt();
            assertEquals(changed + others == 0 ? 0 : 3, export.code(), export::toString);
            if (changed > 0) export.says("--keep-changed");
            assertEquals(changed, exported("out.csv").stream().filter(cells -> cells.get("status").equals("changed"))
                    .filter(cells -> cells.get("output.answer").isEmpty()).count());
            for (var cells : exported("out.csv")) if (!cells.get("output.answer").isEmpty())
                assertEquals("Answer to: " + cells.get("text"), cells.get("output.answer"));
            var all = ofBatch("export", "--keep-changed", path("all.csv")).exits(others == 0 ? 0 : 3);
            all.omits("Left out the outputs");
            if (changed > 0) all.says(changed + " row", "\"changed\"").omits("All rows");
            for (var text : List.of(export, all, ofBatch("status")))
                assertTrue((text.out() + text.err()).lines().filter(line -> line.startsWith("Next: "))
                        .noneMatch(line -> line.contains("--keep-changed")), text::toString);
            var kept = exported("all.csv").stream().filter(cells -> cells.get("status").equals("changed")).toList();
            assertEquals(changed, kept.size());
            for (var cells : kept) assertNotEquals("Answer to: " + cells.get("text"), cells.get("output.answer"));
            assertTrue(kept.stream().noneMatch(cells -> cells.get("output.answer").isEmpty()));

            int now = 0;
            for (int row = 1; row <= rows; row++) {
                var shown = inShell(dify.settings(), "show " + row).out();
                var text = shown.replaceAll("(?s).*?\n  text: (\\S+)\n.*", "$1");
                assertTrue(!shown.contains("answer") || shown.contains("\"Answer to: " + text + "\""), shown);
                if (shown.contains("text (now): ")) now++;
            }
            assertEquals(changed, now);

            assertTrue(ofBatch("status", "--force", "--html", path("report.html")).code() != 2);
            var page = content("report.html").replaceAll("(?s).*class=\"rows\">(.*?)</script>.*", "$1");
            for (var row : tree(page)) if (row.at("/outputs").has("answer"))
                assertEquals("Answer to: " + row.at("/inputs/text").asText(), row.at("/outputs/answer").asText());
        }

        private List<Map<String, String>> exported(String name) throws IOException {
            var lines = content(name).replace("\uFEFF", "").lines().map(line -> List.of(line.split(",", -1))).toList();
            return lines.stream().skip(1).map(cells -> IntStream.range(0, cells.size()).boxed()
                    .collect(Collectors.toMap(lines.getFirst()::get, cells::get))).toList();
        }
    }
}

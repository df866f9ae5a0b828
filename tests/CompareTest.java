package difyexec;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import org.junit.jupiter.api.Nested;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

import module java.base;

import static difyexec.DifyExec.*;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

/// Comparing two results of the same rows.
@Timeout(60)
final class CompareTest {
    private static final ObjectMapper JSON = new ObjectMapper();

    @TempDir Path folder;

    private record Call(int code, String out, String err) {}

    private Call compare(String... more) {
        var out = new StringWriter();
        var err = new StringWriter();
        var words = Stream.concat(Stream.of("compare", path("a.jsonl"), path("b.jsonl")), Stream.of(more));
        int code = commandLine(Given.env(Map.of("NO_COLOR", "1"))).setOut(new PrintWriter(out, true))
                .setErr(new PrintWriter(err, true)).execute(words.toArray(String[]::new));
        return new Call(code, out.toString(), err.toString());
    }

    private String path(String name) {
        return folder.resolve(name).toString();
    }

    private JsonNode diff(String... more) throws IOException {
        var call = compare(Stream.concat(Stream.of("--json"), Stream.of(more)).toArray(String[]::new));
        assertEquals("", call.err());
        return JSON.readTree(call.out());
    }

    /// The files of a batch: results, and a log if there is an event other than a success.
    private final class Side {
        private final StringBuilder results = new StringBuilder(), log = new StringBuilder();
        private int attempts = 0;

        Side row(String id, String outputs) {
            return row(id, "{\"id\":\"" + id + "\"}", outputs);
        }

        Side row(String id, String inputs, String outputs) {
            results.append(("{\"id\":\"%s\",\"status\":\"success\",\"inputs\":%s,\"outputs\":%s,"
                    + "\"workflow_run_id\":\"run-%1$s\",\"retry_count\":0,\"workflow_status\":\"succeeded\","
                    + "\"workflow_id\":\"v-1\",\"elapsed_time\":2.5,\"total_tokens\":10,\"total_price\":0.5,"
                    + "\"currency\":\"USD\"}\n").formatted(id, inputs, outputs));
            return this;
        }

        /// An attempt in the log.
        Side ended(String id, String outcome, double seconds, String error) {
            if (log.isEmpty()) event("session", "\"format\":" + Event.FORMAT
                    + ",\"app\":\"Reviews\",\"server\":\"1.16.0\"");
            var named = "\"id\":\"" + id + "\",\"user\":\"u-" + ++attempts + "\",";
            event("attempt", named + "\"n\":0,\"mode\":\"blocking\"");
            if (error.equals("again")) {
                event("end", named + "\"outcome\":\"again\"");
                return ended(id, outcome, seconds, "");
            }
            if (outcome.equals("succeeded")) {
                int line = results.indexOf("{\"id\":\"" + id + "\""), end = results.indexOf("}\n", line);
                results.insert(end, ",\"user\":\"u-" + attempts + "\",\"seconds\":" + seconds);
            } else event("end", named + "\"outcome\":\"%s\",\"seconds\":%s,\"tokens\":10,\"price\":0.5,\"currency\":\"USD\","
                    .formatted(outcome, seconds) + "\"error\":\"" + error + "\"");
            return this;
        }

        private void event(String name, String fields) {
            log.append("{\"event\":\"%s\",\"t\":\"2026-01-16T12:00:%02dZ\",%s}%n".formatted(name, attempts, fields));
        }

        void save(String name) throws IOException {
            Files.writeString(folder.resolve(name), results);
            if (!log.isEmpty()) Files.writeString(folder.resolve(name + ".log"), log);
        }
    }

    /// A row with these outputs on each side.
    private void outputs(String first, String second) throws IOException {
        new Side().row("r", first).save("a.jsonl");
        new Side().row("r", second).save("b.jsonl");
    }

    /// Each kind of row once.
    private void each() throws IOException {
        new Side().row("same", "{\"answer\":\"yes\"}").row("other", "{\"answer\":\"a red car\",\"n\":[1,2]}")
                .row("gone", "{\"answer\":\"x\"}").row("broke", "{\"answer\":\"x\"}")
                .ended("same", "succeeded", 1, "").ended("other", "succeeded", 2, "")
                .ended("gone", "succeeded", 2, "").ended("broke", "succeeded", 2, "")
                .ended("mended", "failed", 1, "no such city").ended("never", "failed", 1, "refused").save("a.jsonl");
        new Side().row("new", "{\"answer\":\"x\"}").row("mended", "{\"answer\":\"x\"}")
                .row("other", "{\"answer\":\"a blue car\",\"n\":[1,3]}").row("same", "{\"answer\":\"yes\"}")
                .ended("new", "succeeded", 4, "again").ended("mended", "succeeded", 4, "")
                .ended("other", "succeeded", 4, "").ended("same", "succeeded", 4, "")
                .ended("broke", "unknown", 1, "the line went dead").ended("never", "failed", 1, "refused")
                .save("b.jsonl");
    }

    @Nested
    class AComparison {
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', quoteCharacter = '`', textBlock = """
                first                     | second                    | trim  | same
                {"a":{"x":1,"y":2}}       | {"a":{"y":2,"x":1}}       | false | true
                {"a":1,"b":2}             | {"b":2,"a":1}             | false | true
                {"a":1}                   | {"a":1.0}                 | false | true
                {"a":[1e2]}               | {"a":[100]}               | false | true
                {"a":12345678901234567890}| {"a":12345678901234567891}| false | false
                {"a":0.1}                 | {"a":0.10000000000000001} | false | false
                {"a":NaN}                 | {"a":NaN}                 | false | true
                {"a":"1"}                 | {"a":1}                   | false | false
                {"a":null}                | {}                        | false | false
                {"a":[1,2]}               | {"a":[2,1]}               | false | false
                {"a":"x\\r\\ny"}          | {"a":"x\\ny"}             | false | false
                {"a":"x\\r\\ny"}          | {"a":"x\\ny"}             | true  | true
                {"a":{"b":" x "}}         | {"a":{"b":"x"}}           | true  | true
                {"a":"x y"}               | {"a":"xy"}                | true  | false
                {"a":"e\\u0301"}          | {"a":"\\u00e9"}           | false | false
                """)
        void takesValuesForWhatTheyAre(String first, String second, boolean trim, boolean same) throws IOException {
            outputs(first, second);

            var call = trim ? compare("--trim") : compare();

            assertEquals(same ? Exit.OK.code : Exit.ROWS_FAILED.code, call.code(), call.out() + call.err());
        }

        @Test
        void namesEachPlaceOfNestedOutputs() throws IOException {
            outputs("{\"a\":{\"b/c\":[{\"d\":1},2]},\"e\":1}", "{\"a\":{\"b/c\":[{\"d\":2},2,3]}}");

            var diff = diff();

            assertEquals(List.of("/a/b~1c/0/d", "/a/b~1c/2", "/e"),
                    diff.at("/rows/0/differences").findValuesAsText("pointer"));
            assertEquals("{\"pointer\":\"/e\",\"first\":1}", diff.at("/rows/0/differences/2").toString());
            assertEquals("{\"/a\":1,\"/e\":1}", diff.path("outputs").toString());
        }

        @Test
        void countsEachKindOfRowInTheOrderOfTheFirst() throws IOException {
            each();

            var diff = diff();

            for (var kind : Comparison.Match.values()) assertEquals(1, diff.path(kind.key()).asInt(), kind.key());
            assertEquals(List.of("other", "gone", "broke", "mended", "new"), diff.path("rows").findValuesAsText("id"));
            assertEquals(List.of("different", "only_first", "failed_second", "failed_first", "only_second"),
                    diff.path("rows").findValuesAsText("kind"));
            assertEquals("the line went dead", diff.at("/rows/2/error_second").asText());
            assertEquals("no such city", diff.at("/rows/3/error_first").asText());
        }

        /// The files of the second batch lack these fields, as those of the original tool do.
        private void without(String fields) throws IOException {
            for (var name : List.of("b.jsonl", "b.jsonl.log")) {
                var file = folder.resolve(name);
                Files.writeString(file, Files.readString(file).replaceAll(fields, ""));
            }
        }

        @Test
        void putsFiguresOfTheFilesSideBySide() throws IOException {
            each();

            var figures = diff().path("figures");

            assertEquals("{\"first\":2.0,\"second\":4.0,\"difference\":2.0}", figures.path("seconds_p50").toString());
            assertEquals("{\"first\":0,\"second\":1,\"difference\":1}", figures.path("retries").toString());
            assertEquals("{\"first\":3.0,\"second\":3.0,\"difference\":0.0}", figures.path("cost_USD").toString());
            assertEquals("66.7", figures.at("/percent_succeeded/first").toString());
        }

        @Test
        void knowsNoFiguresThatTheFilesDoNotHave() throws IOException {
            each();
            without(",\"(total_)?price\":[^,}]+");

            var unpriced = diff().path("figures");
            without(",\"seconds\":[^,}]+");
            var unlogged = diff().path("figures");

            assertEquals("{\"first\":3.0,\"second\":null,\"difference\":null}", unpriced.path("cost_USD").toString());
            assertEquals("6", unpriced.at("/runs_without_price/second").toString());
            assertEquals("{\"first\":2.0,\"second\":null,\"difference\":null}",
                    unlogged.path("seconds_p50").toString());
            assertTrue(compare().out().contains("seconds p50                 2.00             –\n"), compare().out());
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                first, second, change
                0.244, 0.269,  +0.03 (+12.5 %)
                2,     1,      -1.00 (-50.0 %)
                1.004, 1.001,  ''
                0,     1500,   '+1,500.00'
                """)
        void subtractsWhatItShows(double first, double second, String change) {
            assertEquals(change, Comparison.Figure.of("seconds p50", 2, first, second).change());
        }

        @Test
        void knowsNoShareOfABatchThatWasStoppedBeforeItsFirstRow() throws IOException {
            each();
            var log = folder.resolve("b.jsonl.log");
            Files.writeString(log, Files.readString(log).lines().findFirst().orElseThrow() + "\n");
            Files.delete(folder.resolve("b.jsonl"));

            assertEquals("{\"first\":66.7,\"second\":null,\"difference\":null}",
                    diff().at("/figures/percent_succeeded").toString());
        }

        @Test
        void ofAFileWithItselfFindsNothing() throws IOException {
            each();

            Files.copy(folder.resolve("a.jsonl"), folder.resolve("b.jsonl"), StandardCopyOption.REPLACE_EXISTING);
            Files.copy(folder.resolve("a.jsonl.log"), folder.resolve("b.jsonl.log"),
                    StandardCopyOption.REPLACE_EXISTING);

            var call = compare();
            assertEquals(Exit.OK.code, call.code());
            assertTrue(call.out().contains("\n  same                    4   66.7 %"), call.out());
            assertTrue(call.out().endsWith("\nNothing differs.\n"), call.out());
        }

        @Test
        void comparesOnlyTheGivenOutputs() throws IOException {
            outputs("{\"a\":{\"x\":1,\"y\":1},\"b\":1}", "{\"a\":{\"x\":1,\"y\":2},\"b\":2}");

            assertEquals(Exit.OK.code, compare("--output", "/a/x").code());
            assertEquals("{\"/a/y\":1}", diff("--output", "/a/y").path("outputs").toString());
            assertEquals("{\"/a\":1}", diff("--ignore", "b").path("outputs").toString());
            assertEquals(Exit.OK.code, compare("--ignore", "a", "--ignore", "b").code());
        }

        @Test
        void reportsThatInputsDiffer() throws IOException {
            new Side().row("r", "{\"text\":\"one\"}", "{\"a\":1}").save("a.jsonl");
            new Side().row("r", "{\"text\":\"two\"}", "{\"a\":1}").save("b.jsonl");

            var call = compare();

            assertEquals(Exit.OK.code, call.code());
            assertTrue(call.out().contains("Note: the inputs of 1 row differ, too\n"), call.out());
            assertEquals(1, diff().path("inputs_differ").asInt());
        }

        @Test
        void reportsLinesThatCannotBeRead() throws IOException {
            outputs("{\"a\":1}", "{\"a\":1}");
            Files.writeString(folder.resolve("b.jsonl"), "{\"id\":\n", StandardOpenOption.APPEND);

            var call = compare();

            assertEquals(Exit.OK.code, call.code(), call.out());
            assertTrue(call.err().contains(path("b.jsonl") + ":2"), call.err());
        }

        @Test
        void readsFilesOfTheOriginalToolAndOfAShard() throws IOException {
            Files.writeString(folder.resolve("a.jsonl"), "\uFEFF{\"id\": \"r\", \"status\": \"success\", "
                    + "\"inputs\": {}, \"outputs\": {\"outputs\": {\"answer\": \"yes\"}}, \"retry_count\": 0}\n");
            new Side().row("r", "{\"answer\":\"yes\"}").save("results.3-of-8.jsonl");

            var out = new StringWriter();
            int code = commandLine(Given.env(Map.of())).setOut(new PrintWriter(out)).execute("compare", path("a.jsonl"),
                    path("results.3-of-8.jsonl"));

            assertEquals(Exit.OK.code, code, out::toString);
        }

        @Test
        void showsTheFirstTenDifferencesOrAll() throws IOException {
            var first = new Side();
            var second = new Side();
            for (int n = 1; n <= 12; n++) {
                first.row("r-" + n, "{\"a\":1}");
                second.row("r-" + n, "{\"a\":2}");
            }
            first.save("a.jsonl");
            second.save("b.jsonl");

            var ten = compare().out();
            var all = compare("--all").out();

            assertTrue(ten.contains("r-10  different") && !ten.contains("r-11  different"), ten);
            assertTrue(ten.endsWith("\n  … and 2 more rows (--all)\n"), ten);
            assertTrue(all.endsWith("  r-12  different\n    /a  [-1-]{+2+}\n"), all);
        }

        @Test
        void showsNumbersWithAnyExponent() throws IOException {
            outputs("{\"n\":1e10000}", "{\"n\":-2.5e-10000}");

            var difference = compare("--json").out();

            assertTrue(difference.contains("1E+10000") && difference.contains("-2.5E-10000"), difference);
            assertEquals(3, compare().code());
        }

        @Test
        void doesNotLetValuesActOnATerminal() throws IOException {
            outputs("{\"\\u001b]0;x\\u0007\":\"\\u001b[31m\"}", "{\"\\u001b]0;x\\u0007\":\"\\u202e\"}");

            var out = compare().out();

            assertTrue(out.codePoints().noneMatch(c -> c != '\n' && (Character.isISOControl(c)
                    || Character.getType(c) == Character.FORMAT)), out);
        }
    }

    @Nested
    class WordsOfTexts {
        private String marked(String first, String second) {
            var nodes = JSON.getNodeFactory();
            var change = new JsonDiff(false).change(new JsonDiff.Difference("", nodes.textNode(first),
                    nodes.textNode(second)));
            return change.before() + "[" + change.first() + "|" + change.second() + "]" + change.after();
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = ';', textBlock = """
                first            ; second           ; marked
                a red car        ; a blue car       ; a [red |blue ]car
                a b c d e        ; a x c y e        ; a [b c d |x c y ]e
                yes              ; yes!             ; yes[|!]
                one two          ; two              ; [one |]two
                我喜欢红色       ; 我喜欢蓝色       ; 我喜欢[红|蓝]色
                naïve café       ; naïve tea        ; naïve [café|tea]
                """)
        void areMarkedWhereTheyDiffer(String first, String second, String marked) {
            assertEquals(marked, marked(first, second));
        }

        @Test
        void areShortenedAroundTheDifference() {
            var many = "word ".repeat(1_000);

            assertEquals("word ".repeat(20) + "[" + "x".repeat(2_000) + "…|y ]" + "word ".repeat(20),
                    marked(many + "x".repeat(3_000) + " " + many, many + "y " + many));
        }
    }

    @Nested
    class WhatCannotBeCompared {
        @ParameterizedTest
        @ValueSource(strings = {"--output answer", "--output /a~2", "--output /nowhere"})
        void isNamed(String options) throws IOException {
            outputs("{\"a\":1}", "{\"b\":1}");

            var call = compare(options.split(" "));

            assertEquals(Exit.UNUSABLE.code, call.code());
            assertTrue(call.err().contains(options), call.err());
        }

        @ParameterizedTest
        @ValueSource(strings = {"a.jsonl", "b.jsonl"})
        void isAFileThatIsMissingOrForeign(String name) throws IOException {
            outputs("{\"a\":1}", "{\"a\":1}");
            Files.writeString(folder.resolve(name), "id,text\n");
            var foreign = compare();
            Files.delete(folder.resolve(name));
            var missing = compare();

            assertEquals(List.of(Exit.UNUSABLE.code, Exit.UNUSABLE.code), List.of(foreign.code(), missing.code()));
            for (var err : List.of(foreign.err(), missing.err()))
                assertTrue(err.contains(path(name) + ": ") && err.contains("\nhint: "), err);
        }

        @ParameterizedTest
        @ValueSource(strings = {"--csv", "--html"})
        void isNotWrittenOver(String option) throws IOException {
            outputs("{\"a\":1}", "{\"a\":2}");
            Files.writeString(folder.resolve("mine"), "mine");

            for (var file : List.of("mine", "a.jsonl", "b.jsonl", "b.jsonl.log")) {
                var before = Files.exists(folder.resolve(file)) ? Files.readString(folder.resolve(file)) : "";
                var call = file.equals("mine") ? compare(option, path(file)) : compare("--force", option, path(file));

                assertEquals(Exit.UNUSABLE.code, call.code(), file);
                assertEquals(before, Files.exists(folder.resolve(file)) ? Files.readString(folder.resolve(file)) : "");
            }
            assertEquals(Exit.ROWS_FAILED.code, compare("--force", option, path("mine")).code());
        }

    }

    @Nested
    class TheSheetOfBoth {
        @Test
        void hasInputsAndOutputsSideBySide() throws IOException {
            new Side().row("r", "{\"id\":\"r\",\"text\":\"=1+1\"}", "{\"a\":\"x\",\"b\":[1]}").row("s", "{\"a\":1}")
                    .save("a.jsonl");
            new Side().row("r", "{\"id\":\"r\",\"text\":\"=1+1\"}", "{\"a\":\"@y\",\"b\":[1]}").save("b.jsonl");

            var call = compare("--csv", path("out.csv"));

            assertEquals("""
                    \uFEFFid,kind,differs,input.text,first/a,second/a,first/b,second/b,error_first,error_second
                    r,different,/a,'=1+1,x,'@y,[1],[1],,
                    s,only_first,,,1,,,,,
                    """, Files.readString(folder.resolve("out.csv")).replace("\r\n", "\n"));
            assertEquals(List.of("2 rows", "Escaped 2 cells"), call.err().lines()
                    .map(line -> line.replaceAll("^(\\D*\\d+ \\w+).*", "$1")).toList());
        }

        @Test
        void canBeLimitedToOneOutput() throws IOException {
            outputs("{\"a\":{\"x\":\"one\"},\"b\":1}", "{\"a\":{\"x\":\"two\"},\"b\":1}");

            compare("--output", "/a/x", "--csv", path("out.csv"));

            assertEquals(List.of("\uFEFFid,kind,differs,first/a/x,second/a/x,error_first,error_second",
                    "r,different,/a/x,one,two,,"), Files.readAllLines(folder.resolve("out.csv")));
        }
    }

    @Nested
    class ThePageOfBoth {
        @Test
        void filtersByClicksAndMarksWords() throws Exception {
            var program = ViewsTest.Browser.installed();
            assumeTrue(program.isPresent(), "no Chromium here: install one or name it in DIFYEXEC_CHROMIUM");
            each();
            var call = compare("--html", path("page.html"));
            assertEquals(Exit.ROWS_FAILED.code, call.code(), call.err());

            try (var browser = new ViewsTest.Browser(program.get(), folder.resolve("profile"))) {
                browser.open(folder.resolve("page.html"));
                assertEquals("other", browser.text("#body tr td"), "those that differ come first");
                assertEquals(List.of("rows", "6", "6"), browser.texts(".totals td").subList(0, 3));
                assertEquals(List.of("red "), browser.texts("#body del").subList(0, 1));
                assertEquals(List.of("blue "), browser.texts("#body ins").subList(0, 1));

                browser.click("#body tr button");
                browser.until("detail.open");
                assertEquals("a red blue car", browser.text("#detail-body pre"));
                browser.click("#close");

                assertEquals("7 of 7 rows", browser.text("#count"));
                choose(browser, "cause", "1");
                browser.until("at('count').textContent === '1 of 7 rows'");
                assertEquals("/n (1)", browser.evaluate("at('cause').selectedOptions[0].textContent").asText());
                choose(browser, "cause", "");
                browser.click("#search");
                browser.type("line went dead");
                browser.until("at('count').textContent === '1 of 7 rows'");
                assertEquals("broke", browser.text("#body tr td"));

                assertEquals(List.of(), List.copyOf(browser.complaints));
                assertEquals(List.of(folder.resolve("page.html").toUri().toString()), List.copyOf(browser.requests));
            }
        }

        private void choose(ViewsTest.Browser browser, String id, String value) throws Exception {
            browser.evaluate("at('" + id + "').value = '" + value + "'; at('" + id + "').onchange()");
        }

    }

    @Nested
    class TheVersion {
        @Test
        void isNamedByStatus() throws IOException {
            new Side().row("r", "{}").save("a.jsonl");
            Files.writeString(folder.resolve("a.jsonl"), "{\"id\":\"s\",\"status\":\"success\",\"inputs\":{},"
                    + "\"outputs\":{},\"workflow_id\":\"v-2\"}\n", StandardOpenOption.APPEND);
            var out = new StringWriter();

            for (var words : List.of(List.of("status"), List.of("status", "--json"))) {
                var all = Stream.concat(words.stream(), Stream.of("-o", path("a.jsonl"))).toArray(String[]::new);
                commandLine(Given.env(Map.of())).setOut(new PrintWriter(out)).execute(all);
            }

            assertTrue(out.toString().contains("2 rows · versions v-1, v-2\n"), out::toString);
            assertTrue(out.toString().contains(",\"versions\":[\"v-1\",\"v-2\"],"), out::toString);
        }
    }
}

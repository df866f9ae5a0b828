package difyexec;

import com.fasterxml.jackson.databind.JsonNode;
import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import org.w3c.dom.Element;
import javax.xml.parsers.DocumentBuilderFactory;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.Given.json;
import static difyexec.Given.tree;
import static org.junit.jupiter.api.Assertions.*;

/// Comparing two results of the same rows.
final class CompareTest extends WholeCommand {
    private Call compare(String... more) throws IOException {
        return with(words(List.of(path("a.jsonl"), path("b.jsonl")), more));
    }

    private Call with(String... arguments) throws IOException {
        return call(Map.of("NO_COLOR", "1"), words(List.of("compare"), arguments));
    }

    private JsonNode diff(String... more) throws IOException {
        return tree(compare(words(List.of("--json"), more)).saysNothing().out());
    }

    private static Given.PastBatch batch() {
        return new Given.PastBatch(2, 10, 0.5);
    }

    /// Writes one row with these outputs on each side.
    private void outputs(String first, String second) throws IOException {
        batch().result("r", first).save(file("a.jsonl"));
        batch().result("r", second).save(file("b.jsonl"));
    }

    /// Writes each kind of row once.
    private void each() throws IOException {
        batch().attempt("same", "other", "gone", "broke").result("same", Map.of("answer", "yes"))
                .result("other", "{\"answer\":\"a red car\",\"n\":[1,2]}").result("gone", Map.of("answer", "x"))
                .result("broke", Map.of("answer", "x")).ended("mended", "failed", "no such city")
                .ended("never", "failed", "refused").save(file("a.jsonl"));
        new Given.PastBatch(4, 10, 0.5).ended("new", "again", "overloaded").attempt("new", "mended", "other", "same")
                .result("new", Map.of("answer", "x")).result("mended", Map.of("answer", "x"))
                .result("other", "{\"answer\":\"a blue car\",\"n\":[1,3]}").result("same", Map.of("answer", "yes"))
                .ended("broke", "unknown", "the line went dead").ended("never", "failed", "refused")
                .save(file("b.jsonl"));
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
        void comparesJsonValuesRatherThanTheirText(String first, String second, boolean trim, boolean same)
                throws IOException {
            outputs(first, second);

            var call = trim ? compare("--trim") : compare();

            call.exits(same ? 0 : 3);
        }

        @Test
        void reportsEachDifferenceWithItsJsonPointer() throws IOException {
            outputs("{\"a\":{\"b/c\":[{\"d\":1},2]},\"e\":1}", "{\"a\":{\"b/c\":[{\"d\":2},2,3]}}");

            var diff = diff();

            assertEquals(List.of("/a/b~1c/0/d", "/a/b~1c/2", "/e"),
                    diff.at("/rows/0/differences").findValuesAsText("pointer"));
            assertEquals("{\"pointer\":\"/e\",\"first\":1}", diff.at("/rows/0/differences/2").toString());
            assertEquals("{\"/a\":1,\"/e\":1}", diff.path("outputs").toString());
        }

        @Test
        void countsRowsByKindOfDifferenceAndListsThemInOrder() throws IOException {
            each();

            var diff = diff();

            for (var kind : Comparison.Match.values()) assertEquals(1, diff.path(kind.key()).asInt(), kind.key());
            assertEquals(List.of("other", "gone", "broke", "mended", "new"), diff.path("rows").findValuesAsText("id"));
            assertEquals(List.of("different", "only_first", "failed_second", "failed_first", "only_second"),
                    diff.path("rows").findValuesAsText("kind"));
            assertEquals("the line went dead", diff.at("/rows/2/error_second").asText());
            assertEquals("no such city", diff.at("/rows/3/error_first").asText());
        }

        private static String text(JsonNode figure) {
            return Stream.of("first", "second", "difference").map(key -> figure.path(key).asText())
                    .collect(Collectors.joining(" "));
        }

        /// Removes fields from the files of the second batch. Those of the original tool lack them, too.
        private void without(String fields) throws IOException {
            for (var name : List.of("b.jsonl", "b.jsonl.log")) {
                var file = file(name);
                Files.writeString(file, Files.readString(file).replaceAll(fields, ""));
            }
            for (var line : Files.readString(file("b.jsonl")).replace("\uFEFF", "").lines().toList()) {
                var checksum = new CRC32C();
                checksum.update(line.getBytes(StandardCharsets.UTF_8));
                var end = "(\"user\":" + tree(line).path("user") + ".*\"crc32c\":\")\\w+";
                Files.writeString(file("b.jsonl.log"), content("b.jsonl.log").replaceAll(end,
                        "$1" + HexFormat.of().toHexDigits((int) checksum.getValue())));
            }
        }

        @Test
        void showsTheFiguresOfBothFilesAndTheirDifference() throws IOException {
            each();

            var figures = diff().path("figures");

            assertEquals("2.0 4.0 2.0", text(figures.path("seconds_p50")));
            assertEquals("0 1 1", text(figures.path("retries")));
            assertEquals("3.0 3.5 0.5", text(figures.path("cost_USD")), "a retried attempt costs, too");
            assertEquals("66.7", figures.at("/percent_succeeded/first").toString());
        }

        @Test
        void leavesFiguresEmptyIfTheFilesDoNotContainThem() throws IOException {
            each();
            without(",\"(total_)?price\":[^,}]+");

            var unpriced = diff().path("figures");
            without(",\"seconds\":[^,}]+");
            var unlogged = diff().path("figures");

            assertEquals("3.0 null null", text(unpriced.path("cost_USD")));
            assertEquals("7", unpriced.at("/runs_without_price/second").toString());
            assertEquals("2.0 null null", text(unlogged.path("seconds_p50")));
            compare().shows("latency p50                 2 s            –\n");
        }

        /// A figure has three digits and its unit, and zeros at its end only beside other digits after the point.
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                key               | first    | second | texts
                seconds_p50       | 0.24     | 0.27   | 0.24 s; 0.27 s; +0.03 s (+12.5 %)
                seconds_p50       | 2.00     | 1.00   | 2 s; 1 s; -1 s (-50 %)
                seconds_p50       | 0.70     | 0.70   | 0.70 s; 0.70 s;
                seconds_p90       | 0.00     | 1504   | 0 s; 1,500 s; +1,500 s
                percent_succeeded | 99.6     | 100.0  | 99.6 %; 100 %; +0.4 points
                percent_correct   | 71.3     | 28.1   | 71.3 %; 28.1 %; -43.2 points
                tokens            | 40817    |        | 40,800; –;
                tokens            | 40817    | 81634  | 40,800; 81,600; +40,800 (+100 %)
                rows              | 1234     | 1234   | 1,234; 1,234;
                cost_USD          | 0.06123  | 0.1    | 0.0612 USD; 0.1 USD; +0.0388 USD (+63.4 %)
                """)
        void aMetricHasItsUnitOnceAndThreeDigits(String key, BigDecimal first, BigDecimal second, String texts) {
            var form = key.equals("cost_USD") ? Comparison.NumberForm.ofCost("USD")
                    : Comparison.Measure.valueOf(key.toUpperCase(Locale.ROOT)).form;
            var metric = new Comparison.Metric(key, "", form, first, second);

            assertEquals(texts, Stream.of(metric.text(first), metric.text(second), metric.change())
                    .collect(Collectors.joining("; ")).strip());
        }

        @Test
        void findsNoDifferenceBetweenAFileAndItself() throws IOException {
            each();

            var call = with(path("a.jsonl"), path("a.jsonl")).exits(0);

            assertTrue(call.out().endsWith("\n\nNothing differs.\n"), call.out());
        }

        /// Their rows have no outputs that could differ, which is no good result.
        @ParameterizedTest
        @ValueSource(strings = {"a.jsonl", "b.jsonl", "a.jsonl b.jsonl"})
        void findsAProblemIfResultsAreLost(String lost) throws IOException {
            for (var name : List.of("a.jsonl", "b.jsonl"))
                batch().attempt("r").result("r", Map.of("a", 1)).event("stop").save(file(name));
            for (var name : lost.split(" ")) Files.writeString(file(name), "\uFEFF");

            var call = compare().exits(3);

            for (var name : lost.split(" ")) call.says(name + ": the results lack the line of 1 row");
            call.omits("Nothing differs");
        }

        @Test
        void comparesOnlySelectedAndNotIgnoredOutputs() throws IOException {
            outputs("{\"a\":{\"x\":1,\"y\":1},\"b\":1}", "{\"a\":{\"x\":1,\"y\":2},\"b\":2}");

            compare("--output", "/a/x").exits(0);
            assertEquals("{\"/a/y\":1}", diff("--output", "/a/y").path("outputs").toString());
            assertEquals("{\"/a\":1}", diff("--ignore", "b").path("outputs").toString());
            compare("--ignore", "a", "--ignore", "b").exits(0).omits("Note: ");
            compare("--ignore", "b", "--ignore", "bb").exits(3).shows("Note: ", "\"bb\"").omits("\"b\"");
        }

        @Test
        void reportsHowManyRowsHaveDifferentInputs() throws IOException {
            batch().result("r", Map.of("a", 1), "inputs", Map.of("text", "one")).save(file("a.jsonl"));
            batch().result("r", Map.of("a", 1), "inputs", Map.of("text", "two")).save(file("b.jsonl"));

            compare().exits(0).shows("Note: 1 row has different inputs");

            assertEquals(1, diff().path("inputs_differ").asInt());
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                first, second, code
                r-1,   r-1,    3
                r-1,   x-1,    2
                """)
        void isRejectedIfTheFilesHaveNoIdInCommon(String first, String second, int code) throws IOException {
            batch().result(first, Map.of("a", 1)).result("r-2", Map.of("a", 1)).save(file("a.jsonl"));
            batch().result(second, Map.of("a", 1)).save(file("b.jsonl"));

            compare().exits(code);
        }

        @Test
        void reportsUnreadableLinesByLineNumber() throws IOException {
            outputs("{\"a\":1}", "{\"a\":1}");
            Files.writeString(file("b.jsonl"), "{\"id\":\n", StandardOpenOption.APPEND);

            compare().exits(2).reports(path("b.jsonl") + ":2");
        }

        @Test
        void acceptsResultsOfTheOriginalToolAndOfAShard() throws IOException {
            Files.writeString(file("a.jsonl"), "\uFEFF{\"id\": \"r\", \"status\": \"success\", "
                    + "\"inputs\": {}, \"outputs\": {\"outputs\": {\"answer\": \"yes\"}}, \"retry_count\": 0}\n");
            batch().result("r", Map.of("answer", "yes")).save(file("results.3-of-8.jsonl"));

            with(path("a.jsonl"), path("results.3-of-8.jsonl")).exits(0);
        }

        @Test
        void showsOnlyTenDifferentRowsUnlessAllAreRequested() throws IOException {
            var first = batch();
            var second = batch();
            for (int n = 1; n <= 12; n++) {
                first.result("r-" + n, Map.of("a", 1));
                second.result("r-" + n, Map.of("a", 2));
            }
            first.save(file("a.jsonl"));
            second.save(file("b.jsonl"));

            var ten = compare().out();
            var all = compare("--all").out();

            assertTrue(ten.contains("r-10  different") && !ten.contains("r-11  different"), ten);
            assertTrue(ten.contains("\n  … and 2 more rows (--all)\n"), ten);
            assertTrue(all.contains("  r-12  different\n    /a  [-1-]{+2+}\n"), all);
        }

        @Test
        void showsNumbersWithHugeExponentsInScientificNotation() throws IOException {
            outputs("{\"n\":1e10000}", "{\"n\":-2.5e-10000}");

            var difference = compare("--json").out();

            assertTrue(difference.contains("1E+10000") && difference.contains("-2.5E-10000"), difference);
            compare().exits(3);
        }

        /// Results are in the order of completion; the log has the order of sending.
        @Test
        void listsRowsInTheOrderInWhichTheFirstBatchSentThem() throws IOException {
            var first = batch().attempt("a", "b", "c");
            var second = batch();
            for (var id : List.of("c", "a", "b", "x")) first.result(id, Map.of("a", 1));
            for (var id : List.of("new", "b", "x", "c", "a")) second.result(id, Map.of("a", 2));
            first.save(file("a.jsonl"));
            second.save(file("b.jsonl"));

            compare("--csv", path("out.csv"));

            assertEquals(List.of("a", "b", "c", "x", "new"), diff().path("rows").findValuesAsText("id"));
            assertEquals(List.of("a", "b", "c", "x", "new"), Files.readAllLines(file("out.csv")).stream()
                    .skip(1).map(line -> line.split(",")[0]).toList());
        }

        @Test
        void printsOutputsWithoutControlCharacters() throws IOException {
            outputs("{\"\\u001b]0;x\\u0007\":\"\\u001b[31m\"}", "{\"\\u001b]0;x\\u0007\":\"\\u202e\"}");

            compare().isSafeOnATerminal();
        }
    }

    @Nested
    class TheNamesOfTheSides {
        /// They are the names of the files, with the folder if the names are equal.
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                first,               second,              name,         other
                before.jsonl,        after.jsonl,         before,       after
                old/results.jsonl,   new/results.jsonl,   DIR/old/results, DIR/new/results
                same.jsonl,          different.jsonl,     same,         different
                """)
        void areShownInTextAndPage(String first, String second, String name, String other) throws Exception {
            for (var file : List.of(first, second)) Files.createDirectories(file(file).getParent());
            batch().result("r-1", Map.of("a", 1)).result("r-2", Map.of("a", 1)).save(file(first));
            batch().ended("r-1", "failed", "no").result("r-3", Map.of("a", 1)).save(file(second));

            var call = with(path(first), path(second), "--html", path("page.html")).exits(3);

            name = name.replace("DIR", folder.toString());
            other = other.replace("DIR", folder.toString());
            call.shows("failed in " + other + " ", "only in " + name + " ", "only in " + other + " ");
            assertTrue(call.out().endsWith("Rows that differ: 3 of 3. With result: 100 % " + name + ", 50 % " + other
                    + ".\n"), call.out());
            var page = content("page.html");
            assertTrue(page.contains("\"sides\":[\"" + name + "\",\"" + other + "\"]"));
            assertTrue(page.contains("\"only in " + name + "\":\"only first\""), "its look");
        }
    }

    @Nested
    class TheComparisonSummary {
        /// A side without results has no share of successes, nor of correct rows.
        @ParameterizedTest
        @ValueSource(strings = {"--all", "-i DATA --expect wanted=/a"})
        void isAlsoShownIfASideHasNoResults(String options) throws IOException {
            batch().result("r-1", Map.of("a", 1)).save(file("a.jsonl"));
            batch().session().save(file("b.jsonl"));
            Files.writeString(file("data.csv"), "id,wanted\nr-1,1\n");

            var call = compare(options.replace("DATA", input()).split(" "));

            assertTrue(call.out().endsWith("Rows that differ: 1 of 1. " + (options.equals("--all") ? "With result"
                    : "Correct") + ": 100 % a, – b.\n"), call.out());
            assertEquals(json("{'first':100.0,'second':null,'difference':null}"),
                    diff().at("/figures/percent_succeeded").toString());
        }
    }

    @Nested
    class ExpectedValues {
        private static final String[] RULE = {"--expect", "wanted=/a"};

        /// Writes a CSV with the expected values of the rows `r-1` …
        private void wanted(String... cells) throws IOException {
            var csv = new StringBuilder("id,text,wanted\n");
            for (int n = 1; n <= cells.length; n++)
                csv.append("r-").append(n).append(",x,\"").append(cells[n - 1].replace("\"", "\"\"")).append("\"\n");
            Files.writeString(file("data.csv"), csv);
        }

        /// Writes a file whose rows have these outputs `a`, as JSON. The row of a `-` failed.
        private void save(String name, String... outputs) throws IOException {
            var side = batch();
            side.session();
            for (int n = 1; n <= outputs.length; n++) {
                if (outputs[n - 1].equals("-")) side.ended("r-" + n, "failed", "no such city");
                else side.result("r-" + n, "{\"a\":" + outputs[n - 1] + "}");
            }
            side.save(file(name));
        }

        private Call check(String... more) throws IOException {
            var rule = List.of(more).contains("--expect") ? new String[0] : RULE;
            return with(words(List.of(words(List.of(path("b.jsonl"), "-i", input()), rule)), more));
        }

        private JsonNode expected(Call call) throws IOException {
            return tree(call.out()).path("expected");
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', quoteCharacter = '`', textBlock = """
                cell         | output        | options                    | correct
                yes          | "yes"         |                            | true
                yes          | "Yes"         |                            | false
                yes          | " yes "       | --trim                     | true
                yes          | " yes "       |                            | false
                1.0          | 1             |                            | true
                1.0          | "1"           |                            | false
                1.0          | "1"           | --tolerance 0.5            | true
                3.14         | 3.1415        | --tolerance 0.01           | true
                3.14         | 3.1415        | --tolerance 0.001          | false
                1.2          | 1.3           | --tolerance 0.1            | true
                1e2147483647 | -1e2147483647 | --tolerance 1              | false
                many         | 3             | --tolerance 1              | false
                007          | "7"           |                            | false
                true         | true          |                            | true
                [1, 2.0]     | [1,2]         |                            | true
                {"x":1}      | {"x":2}       |                            | false
                2            | {"x":[1,2]}   | --expect wanted=/a/x/1     | true
                2            | {"x":[1]}     | --expect wanted=/a/x/1     | false
                .            | null          | --expect wanted=/b         | false
                """)
        void areComparedByValueOrTolerance(String cell, String output, String options,
                boolean correct) throws IOException {
            wanted(cell);
            save("b.jsonl", output);

            var call = check(options == null ? new String[0] : options.split(" "));

            call.exits(correct ? 0 : 3);
        }

        /// A row that was not run is not correct.
        @Test
        void areUsedToCountCorrectAndMissedRowsOfOneFile() throws IOException {
            wanted("1", "2", "", " ", "5", "6", "");
            save("b.jsonl", "1", "3", "1", "1", "-");

            var expected = expected(check("--json", "--junit", path("report.xml")));
            var text = check();

            assertEquals(json("{'first':null,'second':33.3,'difference':null,'correct':1,'missed':1,'no_result':2,"
                    + "'not_judged':2}"), expected.toString());
            text.exits(3)
                    .shows("\n  b, by expected value\n  correct ", "\n  missed ", "\n  no result ", "\n  not judged ",
                            "r-2  missed\n    /a: expected \"2\", found 3\n", "r-5  no result: no such city\n",
                            "r-6  no result\n", "Note: 1 row ", "\nCorrect: 1 of 3 judged rows.\n").omits("r-1", "r-3");
            var report = content("report.xml");
            assertTrue(report.contains("tests=\"6\"") && report.contains("errors=\"2\""), report);
        }

        @Test
        void anErrorThatIsTheSameOnBothSidesIsShownOnlyOnce() throws IOException {
            wanted("1");
            save("a.jsonl", "-");
            save("b.jsonl", "-");

            var call = compare("-i", input(), RULE[0], RULE[1]);

            assertEquals(2, call.out().split("no such city", -1).length, call.out());
        }

        /// A row without an expected value is neither right nor wrong, whether it succeeded or failed.
        @Test
        void rowsWithoutAnExpectedValueAreNotJudged() throws IOException {
            wanted("1", "", "", "");
            save("a.jsonl", "1", "-", "1", "1");
            save("b.jsonl", "1", "1", "-", "2");

            var call = compare("--json", "--csv", path("out.csv"), "-i", input(), RULE[0], RULE[1]);

            var expected = tree(call.out()).path("expected");

            assertEquals("1 0 3", Stream.of("correct", "no_result", "not_judged")
                    .map(key -> expected.path(key).asText())
                    .collect(Collectors.joining(" ")));
            var rows = Files.readAllLines(file("out.csv")).stream().filter(row -> row.matches("r-[234],.*"))
                    .toList();
            assertEquals(3, rows.size());
            for (var row : rows) assertTrue(row.endsWith(",,not_judged,"), row);
            check().exits(0);
        }

        @Test
        void areRejectedIfNoneOfTheirRowsHasAResult() throws IOException {
            wanted("", "1");
            save("b.jsonl", "1");

            check("--csv", path("out.csv")).exits(2).showsNothing().says(input() + ": ").hints();

            assertFalse(Files.exists(file("out.csv")));
        }

        @Test
        void mustAllMatchForARowToBeCorrect() throws IOException {
            Files.writeString(file("data.csv"), "id,one,two\nr-1,1,x\nr-2,1,y\nr-3,1,\n");
            save("b.jsonl", "{\"p\":1,\"q\":\"x\"}", "{\"p\":1,\"q\":\"x\"}", "{\"p\":1}");

            var rules = new String[] {"--expect", "one=/a/p", "--expect", "two=/a/q"};

            var found = expected(check(words(List.of(rules), "--json")));

            assertEquals("2 1", found.path("correct") + " " + found.path("missed"));
            check(rules).shows("/a/q: expected \"y\", found \"x\"\n").omits("/a/p: ");
        }

        /// Without expected values, neither of these rows would be a difference.
        @Test
        void areTheBasisOfTheSummaryAndExitCodeForTwoSides() throws IOException {
            wanted("1", "1", "1", "1", "1", "1", "1", "1", "1", "1", "1", "1");
            save("a.jsonl", "1", "1", "1", "1", "1", "1", "1", "1", "1", "1", "2", "-");
            save("b.jsonl", "1", "1", "2", "2", "2", "2", "2", "2", "2", "2", "1", "-");

            var json = tree(compare("--json", "-i", input(), RULE[0], RULE[1]).out());
            var text = compare("-i", input(), RULE[0], RULE[1]).out();

            assertTrue(text.endsWith("Rows that differ: 9 of 12. Correct: 83.3 % a, 25 % b.\n"), text);
            assertEquals(-58.3, json.at("/expected/difference").asDouble());
            assertEquals(-58.3, json.at("/figures/percent_correct/difference").asDouble());
            assertEquals(List.of("worse", "better", ""), Stream.of("r-3", "r-11", "r-12").map(id -> json.path("rows")
                    .valueStream().filter(row -> row.path("id").asText().equals(id)).findFirst().orElseThrow()
                    .path("trend").asText()).toList());
            with(path("b.jsonl"), path("b.jsonl"), "-i", input(), RULE[0], RULE[1]).exits(3); // rows miss on each side
            assertEquals("{\"column\":\"wanted\",\"output\":\"/a\",\"value\":\"1\",\"first\":\"1\",\"second\":\"2\"}",
                    json.at("/rows/1/expected/0").toString());
        }

        /// The log remembers the id column, the delimiter and the decimal comma.
        @Test
        void areReadWithTheCsvOptionsOfTheBatch() throws IOException {
            Files.writeString(file("data.csv"), "key;wanted\nr-1;1.001,50\n");
            batch().session("choices", new Csv.Shape("key", null, new Csv.Table(';', null, null, List.of()), "", null, ',', "",
                    new Csv.Names(Map.of(), Map.of(), "")))
                    .result("r-1", Map.of("a", 1001.5)).save(file("b.jsonl"));

            check().exits(0);
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                options                                    | facts
                --expect wanted=/a                         | -i
                -i DATA                                    | --expect
                -i DATA --tolerance 1                      | --expect
                -i DATA --expect wanted=a                  | wanted=a
                -i DATA --expect =/a                       | =/a
                -i DATA --expect wanted=/a~2               | /a~2
                -i DATA --expect nowhere=/a                | nowhere data.csv:1
                -i DATA --expect wanted~=/a                | "wanted~"
                -i DATA --expect wanted=/a --tolerance x   | --tolerance
                -i NONE --expect wanted=/a                 | none.csv
                -i DATA --expect wanted=/a --csv DATA --force  | data.csv
                """)
        void areRejectedIfAnOptionOrExpressionIsInvalid(String options, String facts) throws IOException {
            wanted("1", "(");
            save("b.jsonl", "1", "1");
            var before = content("data.csv");

            var typed = options.replace("DATA", input()).replace("NONE", path("none.csv")).split(" +");
            with(words(List.of(path("b.jsonl"), path("b.jsonl")), typed)).exits(2).says(facts.split(" "));

            assertEquals(before, content("data.csv"));
        }
    }

    @Nested
    class TheJUnitReport {
        /// Returns a report, after a check that it counts its test cases correctly.
        private Element report(String... more) throws Exception {
            compare(words(List.of("--junit", path("report.xml")), more)).exits(3);
            var suite = DocumentBuilderFactory.newInstance().newDocumentBuilder()
                    .parse(file("report.xml").toFile()).getDocumentElement();
            var cases = cases(suite).values();
            assertEquals(Integer.toString(cases.size()), suite.getAttribute("tests"));
            for (var kind : List.of("failure", "error", "skipped"))
                assertEquals(Integer.toString(Collections.frequency(cases, kind)),
                        suite.getAttribute(kind.replaceFirst("(?<=[er])$", "s")), kind);
            return suite;
        }

        /// Maps the name of each test case to the element that it contains, or to `passed`.
        private static Map<String, String> cases(Element suite) {
            var cases = new LinkedHashMap<String, String>();
            var all = suite.getElementsByTagName("testcase");
            for (int n = 0; n < all.getLength(); n++) {
                var one = (Element) all.item(n);
                var inside = one.getFirstChild();
                cases.put(one.getAttribute("name"), inside == null ? "passed" : inside.getNodeName());
            }
            return cases;
        }

        @Test
        void listsEachRowAsATestCaseWithItsSecondResult() throws Exception {
            each();

            var suite = report();

            assertEquals("b.jsonl", suite.getAttribute("name"));
            assertEquals(Map.of("same", "passed", "other", "failure", "gone", "error", "broke", "error",
                    "mended", "skipped", "never", "error", "new", "skipped"), cases(suite));
            var other = (Element) suite.getElementsByTagName("failure").item(0);
            assertTrue(other.getTextContent().contains("/answer: a \"a red car\", b \"a blue car\""),
                    other.getTextContent());
            assertEquals("4.0", ((Element) other.getParentNode()).getAttribute("time"));
        }

        /// A row may be different and still be correct, or equal and wrong on both sides.
        @Test
        void judgesRowsByExpectedValuesIfTheyAreGiven() throws Exception {
            each();
            Files.writeString(file("data.csv"), "id,wanted\nsame,no\nother,a blue car\nnew,\nbroke,x\n");

            var suite = report("-i", input(), "--expect", "wanted=/answer");

            var cases = cases(suite);
            assertEquals(List.of("failure", "passed", "skipped", "error", "skipped"), Stream.of("same", "other", "new",
                    "broke", "mended").map(cases::get).toList());
            var failure = suite.getElementsByTagName("failure").item(0).getTextContent();
            assertTrue(failure.contains("expected \"no\", found \"yes\""), failure);
        }

        /// A model may write anything. The report stays valid, the page runs none of it, and the sheet has no formulas.
        @ParameterizedTest
        @ValueSource(strings = {"]]>", "<![CDATA[", "<a b='c'>&amp;", "\\u0000\\u001b", "\\ud800", "\\ud83d\\ude00",
                "\\uffff", "=1+1", "</script><script>alert(1)</script>", "{+x+}", "\\u202e"})
        void hostileIdsAndOutputsDamageNeitherReportPageNorCsv(String text) throws Exception {
            var read = tree("\"r-" + text.replaceAll("\\\\u(00..|ffff|d800)", "") + "\"").textValue();
            batch().result(read, Map.of("a", "x")).save(file("a.jsonl"));
            batch().result(read, "{\"a\":\"" + text + "\"}").save(file("b.jsonl"));
            Files.writeString(file("data.csv"), "id,wanted\n" + read + ",\"other " + text + "\"\n");

            for (var more : List.of(new String[0], new String[] {"-i", input(), "--expect", "wanted=/a"})) {
                var suite = report(words(List.of("--html", path("page.html"), "--csv", path("out.csv"), "--force"),
                        more));

                assertEquals(Set.of(read), cases(suite).keySet());
                assertFalse(content("page.html").contains("alert(1)</script>"));
                var sheet = content("out.csv");
                assertFalse(Pattern.compile("(?m)(^|,)\"?=1").matcher(sheet).find(), sheet);
            }
        }

        @Test
        void replacesAnEarlierReportWithoutForce() throws Exception {
            each();
            report();
            report();
        }
    }

    @Nested
    class AWordDiff {
        private String marked(String first, String second) {
            var nodes = Given.JSON.getNodeFactory();
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
        void marksTheWordsThatDiffer(String first, String second, String marked) {
            assertEquals(marked, marked(first, second));
        }

        @Test
        void shortensTheEqualTextAroundADifference() {
            var many = "word ".repeat(1_000);

            assertEquals("word ".repeat(20) + "[x |y ]" + "word ".repeat(20),
                    marked(many + "x " + many, many + "y " + many));
        }
    }

    @Nested
    class AnInvalidComparison {
        @ParameterizedTest
        @ValueSource(strings = {"compare", "compare A", "compare A B A", "compare A B --expect x=/a", "compare A -i B"})
        void isRejectedUnlessItHasTwoFilesOrOneWithExpectedValues(String typed) throws IOException {
            outputs("{\"a\":1}", "{\"a\":1}");

            var words = typed.replace("A", path("a.jsonl")).replace("B", path("b.jsonl")).split(" ");

            call(Map.of(), words).exits(2);
        }

        @ParameterizedTest
        @ValueSource(strings = {"--output answer", "--output /a~2", "--output /nowhere"})
        void isRejectedIfAnOutputPointerIsInvalidOrMatchesNothing(String options) throws IOException {
            outputs("{\"a\":1}", "{\"b\":1}");

            compare(options.split(" ")).exits(2).says(options);

            assertEquals(0, openFilesWith(folder.toString()));
        }

        @ParameterizedTest
        @ValueSource(strings = {"a.jsonl", "b.jsonl"})
        void isRejectedIfAFileIsMissingOrContainsNoResults(String name) throws IOException {
            outputs("{\"a\":1}", "{\"a\":1}");
            Files.writeString(file(name), "id,text\n");
            compare().exits(2).says(path(name) + ": ").hints();

            Files.delete(file(name));
            compare().exits(2).says(path(name) + ": ").hints();
        }

        @Test
        void isRejectedIfBothBatchesHaveSentNoRow() throws IOException {
            batch().session().save(file("a.jsonl"));
            batch().session().save(file("b.jsonl"));

            compare("--csv", path("out.csv")).exits(2).hints();

            assertFalse(Files.exists(file("out.csv")));
        }

        @ParameterizedTest
        @ValueSource(strings = {"--csv", "--html", "--junit"})
        void isRejectedIfItWouldOverwriteForeignOrBatchFiles(String option) throws IOException {
            outputs("{\"a\":1}", "{\"a\":2}");
            Files.writeString(file("mine"), "mine");

            for (var file : List.of("mine", "a.jsonl", "b.jsonl", "b.jsonl.log")) {
                var before = content(file);
                var call = file.equals("mine") ? compare(option, path(file)) : compare("--force", option, path(file));

                assertEquals(2, call.code(), file);
                assertEquals(before, content(file));
            }
            assertEquals(3, compare("--force", option, path("mine")).code());
        }

        @ParameterizedTest
        @CsvSource({"--csv, --html, x", "--csv, --junit, ./x", "--html, --junit, link/x"})
        void isRejectedIfTwoOutputsAreOneFile(String one, String other, String same) throws IOException {
            outputs("{\"a\":1}", "{\"a\":2}");
            Files.createSymbolicLink(file("link"), folder);
            var before = names();

            for (var force : List.of(new String[0], new String[] {"--force"}))
                compare(words(List.of(one, path("x"), other, folder + "/" + same), force)).exits(2).reports("/x").hints();

            assertEquals(before, names());
        }
    }

    @Nested
    class TheComparisonCsv {
        @Test
        void listsInputsAndBothOutputsSideBySide() throws IOException {
            var inputs = Map.of("text", "=1+1");
            batch().result("r", "{\"a\":\"x\",\"b\":[1]}", "inputs", inputs).result("s", Map.of("a", 1))
                    .save(file("a.jsonl"));
            batch().result("r", "{\"a\":\"@y\",\"b\":[1]}", "inputs", inputs).save(file("b.jsonl"));

            var call = compare("--csv", path("out.csv"));

            assertEquals("""
                    \uFEFFid,kind,differs,input.text,first/a,second/a,first/b,second/b,error_first,error_second
                    r,different,/a,'=1+1,x,'@y,[1],[1],,
                    s,only_first,,,1,,,,,
                    """, content("out.csv").replace("\r\n", "\n"));
            assertEquals(List.of("Wrote 2 rows", "Escaped 2 cells"), call.err().lines()
                    .map(line -> line.replaceAll("^(\\D*\\d+ \\w+).*", "$1")).toList());
        }

        @Test
        void canBeLimitedToOneOutput() throws IOException {
            outputs("{\"a\":{\"x\":\"one\"},\"b\":1}", "{\"a\":{\"x\":\"two\"},\"b\":1}");

            compare("--output", "/a/x", "--csv", path("out.csv"));

            assertEquals(List.of("\uFEFFid,kind,differs,first/a/x,second/a/x,error_first,error_second",
                    "r,different,/a/x,one,two,,"), Files.readAllLines(file("out.csv")));
        }
    }

    @Nested
    class TheComparisonPage {
        @Test
        void filtersRowsByClicksAndMarksDifferingWords() throws Exception {
            each();
            compare("--html", path("page.html")).exits(3);

            try (var browser = ViewsTest.Browser.start(file("profile"))) {
                browser.open(file("page.html"));
                assertEquals(List.of("broke", "mended", "other"),
                        browser.texts("#body tr td:first-child").subList(0, 3), "worse, better, different");
                assertEquals(compare().out().lines().toList().getLast(), browser.text("#overview h2"));
                assertEquals(List.of("1 row got worse", "1 row got better"), browser.texts("#overview button"));
                assertEquals("Comparison: a and b", browser.text("#title"));
                assertEquals(List.of("with result", "66.7\u00a0%", "66.7\u00a0%"), browser.texts(".totals td").subList(4, 7));
                assertEquals(List.of("Metric", "a", "b", "Difference"), browser.texts(".totals th"));
                assertEquals(List.of(path("a.jsonl"), path("b.jsonl")), browser.texts("#about div").stream()
                        .map(line -> line.split(": ")[0]).toList());
                assertEquals(List.of("red "), browser.texts("#body del").subList(0, 1));
                assertEquals(List.of("blue "), browser.texts("#body ins").subList(0, 1));

                browser.click("#body tr:nth-child(3) button");
                browser.until("detail.open");
                assertEquals(List.of("a red car", "a blue car"), browser.texts("#detail-body .both pre").subList(0, 2),
                        "both outputs in full");
                assertEquals(List.of("red "), browser.texts("#detail-body del").subList(0, 1));
                browser.click("#close");
                assertEquals("7 of 7 rows", browser.text("#count"));
                browser.click("#overview button");
                browser.until("at('count').textContent === '1 of 7 rows'");
                assertEquals("broke", browser.text("#body tr td"));
                choose(browser, "cause", "/n (1)");
                browser.until("at('count').textContent === '1 of 7 rows'");
                choose(browser, "cause", "worse (1)");
                browser.until("at('body').querySelector('td').textContent === 'broke'");
                choose(browser, "cause", "all differences");
                browser.click("#search");
                browser.type("line went dead");
                browser.until("at('count').textContent === '1 of 7 rows'");
                assertEquals("broke", browser.text("#body tr td"));

                browser.isQuiet(file("page.html"));
            }
        }

        @Test
        void showsExpectedAndFoundValuesOfAnEvaluation() throws Exception {
            each();
            Files.writeString(file("data.csv"), "id,wanted\nother,a red car\nsame,no\n");
            with(path("a.jsonl"), "-i", input(), "--expect", "wanted=/answer", "--html", path("page.html")).exits(3);

            try (var browser = ViewsTest.Browser.start(file("profile"))) {
                browser.open(file("page.html"));
                assertEquals("a, by expected value", browser.text(".totals h2"));
                assertEquals("Check: a", browser.text("#title"));
                assertEquals(List.of("Expected", "Found"), browser.texts("#heads th").reversed().subList(0, 2).reversed());
                var kinds = browser.texts("#body tr td:nth-child(2)");
                assertTrue(kinds.containsAll(List.of("missed", "not judged")), kinds::toString);
                assertTrue(browser.evaluate("at('cause').hidden").asBoolean(), "a menu without a choice");
                browser.isQuiet(file("page.html"));
            }
        }

        /// Returns the cells whose text is less than 4 pixels from the next one's, and those that hide a part of theirs.
        private static final String CROWDED = """
                [...document.querySelectorAll('tr:not([hidden])')].flatMap(row => {
                  const boxes = [...row.children].filter(cell => cell.offsetWidth && cell.textContent).map(cell => {
                    const range = document.createRange();
                    range.selectNodeContents(cell);
                    const box = range.getBoundingClientRect();
                    const right = Math.min(box.right, cell.querySelector('button')?.getBoundingClientRect().right ?? box.right);
                    return {text: cell.textContent, left: box.left, right, cut: cell.scrollWidth > cell.clientWidth};
                  });
                  return boxes.filter((box, n) => CUT && box.cut || !CUT && n && box.left < boxes[n - 1].right + 4)
                    .map(({text}) => text);
                }).join()""";

        @Test
        void hasNoTextsThatTouchOnAPhoneAndCutsNothingInPrint() throws Exception {
            var inputs = Map.of("text", "one");
            var long_ = "results-of-the-evaluation-2026-11-01";
            for (var name : List.of("a/" + long_, "b/" + long_)) {
                Files.createDirectories(file(name).getParent());
                new Given.PastBatch(1234, 1234, 0.012345).attempt("a-long-id-".repeat(6), "r-2")
                        .result("a-long-id-".repeat(6), Map.of("answer", name + " word".repeat(200)), "inputs", inputs)
                        .ended("r-2", "failed", "no such city in this country ".repeat(10)).save(file(name + ".jsonl"));
            }
            with(path("a/" + long_ + ".jsonl"), path("b/" + long_ + ".jsonl"), "--html", path("page.html")).exits(3);

            try (var browser = ViewsTest.Browser.start(file("profile"))) {
                browser.open(file("page.html"));
                browser.call("Emulation.setDeviceMetricsOverride",
                        "{'width':390,'height':844,'deviceScaleFactor':1,'mobile':true}");
                assertEquals("", browser.evaluate(CROWDED.replace("CUT", "false")).asText());
                assertEquals(390, browser.evaluate("document.documentElement.scrollWidth").asInt());

                browser.call("Emulation.setDeviceMetricsOverride",
                        "{'width':794,'height':1123,'deviceScaleFactor':1,'mobile':false}");
                browser.call("Emulation.setEmulatedMedia", "{'media':'print'}");
                assertEquals("", browser.evaluate(CROWDED.replace("CUT", "true")).asText());
                assertEquals(794, browser.evaluate("document.documentElement.scrollWidth").asInt());
            }
        }

        private void choose(ViewsTest.Browser browser, String id, String text) throws Exception {
            browser.evaluate("at('" + id + "').value = [...at('" + id + "').options].find(one => one.textContent === '"
                    + text + "').value; at('" + id + "').onchange()");
        }

    }
}

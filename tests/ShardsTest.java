package difyexec;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import org.junit.jupiter.api.Nested;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

import module java.base;

import static difyexec.DifyExec.*;
import static org.junit.jupiter.api.Assertions.assertAll;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

/// One CSV in several processes, and the one batch that is made of what they did. Of the ids 1 to 12 in three shards,
/// the first has 6, 8, 9, 10, 12, the second 1, 2, 3, 4, 11, the third 5 and 7.
@Timeout(90)
final class ShardsTest extends WholeCommand {
    private final Dify dify = dify();

    private Call shard(int index, int count, String... more) throws IOException {
        return dify.run(Stream.concat(Stream.of("--shard", index + "/" + count), Stream.of(more))
                .toArray(String[]::new));
    }

    private void allThree() throws IOException {
        for (int index = 1; index <= 3; index++) shard(index, 3);
    }

    /// Twelve rows, run in three shards, and merged.
    private void mergedOfThree() throws IOException {
        rows(12);
        allThree();
        merged();
    }

    private Call merge(String... more) throws IOException {
        return call(Map.of(), Stream.concat(Stream.of("merge", "-i", input(), "-o", output()), Stream.of(more))
                .toArray(String[]::new));
    }

    private Call merged() throws IOException {
        var call = merge();
        assertEquals(Exit.OK.code, call.code(), call.err());
        return call;
    }

    private String next(String command, String options) {
        return "Next: difyexec " + command + " -i " + input() + " -o " + output() + options;
    }

    private List<String> ids(String results) throws IOException {
        return read(results).stream().map(line -> line.path("id").asText()).toList();
    }

    private void append(String name, String line) throws IOException {
        Files.writeString(file(name), line, StandardOpenOption.APPEND);
    }

    @Nested
    class TheShard {
        /// Computed by another implementation. They never change: a row would be paid for twice.
        @ParameterizedTest
        @CsvSource({"row-1, 3, 3", "row-1, 8, 6", "row-1, 1000, 934", "größe, 8, 8", "日本語, 1000, 372", "😀, 8, 8",
                "1, 1, 1", "42, 3, 1", "42, 1000, 638"})
        void ofARowIsAHashOfItsId(String id, int count, int index) {
            assertEquals(new Shard(index, count), Shard.of(id, count));
            assertTrue(new Shard(index, count).holds(id));
            assertEquals(count == 1, new Shard(index % count + 1, count).holds(id));
        }

        @ParameterizedTest
        @ValueSource(strings = {"row-", "", "uuid"})
        void hasAnEqualShareOfTheRows(String kind) {
            var random = new SplittableRandom(1);
            var ids = IntStream.rangeClosed(1, 100_000).mapToObj(number -> kind.equals("uuid")
                    ? new UUID(random.nextLong(), random.nextLong()).toString() : kind + number);

            var sizes = ids.collect(Collectors.groupingBy(id -> Shard.of(id, 8), Collectors.counting()));

            assertEquals(8, sizes.size());
            assertAll(sizes.entrySet().stream().map(each -> () ->
                    assertTrue(Math.abs(each.getValue() - 12_500) <= 375, each.toString())));
        }

        @ParameterizedTest
        @CsvSource({"results.jsonl, results.3-of-8.jsonl", "results, results.3-of-8", "a.b.csv, a.b.3-of-8.csv",
                "results.3-of-8.jsonl, results.3-of-8.jsonl"})
        void namesItsFiles(String output, String named) {
            var shard = new Shard(3, 8);

            assertEquals(Path.of("d", named), shard.of(Path.of("d", output)));
            assertEquals(Optional.of(shard), Shard.in(Path.of("d", named)));
        }

        @ParameterizedTest
        @ValueSource(strings = {"results.jsonl", "results.0-of-8.jsonl", "results.9-of-8.jsonl", "1-of-8.jsonl"})
        void isInNoOtherName(String name) {
            assertEquals(Optional.empty(), Shard.in(Path.of(name)));
        }

        @ParameterizedTest
        @ValueSource(strings = {"0/4", "5/4", "x/4", "1", "1/0", "auto", "auto/8", "-1/2"})
        void isOneOfIts(String typed) throws IOException {
            rows(1);

            var call = call(Map.of(), typed("run", "--demo", "--shard=" + typed));

            assertEquals(Exit.UNUSABLE.code, call.code());
            assertTrue(call.sentence().startsWith("difyexec: --shard " + typed + ": "), call.err());
        }
    }

    @Nested
    class ACallOfOne {
        @Test
        void runsItsRowsAloneInFilesOfItsOwn() throws IOException {
            rows(12);

            var call = shard(3, 3);

            assertEquals(Exit.OK.code, call.code(), call.err());
            assertEquals(List.of("5", "7"), ids("results.3-of-3.jsonl").stream().sorted().toList());
            assertEquals("3/3", read("results.3-of-3.jsonl.log").getFirst().path("shard").asText());
            assertEquals(Set.of("data.csv", "results.3-of-3.jsonl", "results.3-of-3.jsonl.log",
                    "results.3-of-3.jsonl.lock"), names());
        }

        @Test
        void saysItsShareAtTheStart() throws IOException {
            rows(12);

            assertTrue(shard(2, 3, "-c", "2").err()
                    .startsWith("shard 2 of 3: 5 of 12 rows; -c 2 here, 6 if all 3 run\n"));
        }

        @Test
        void goesOnAndRepeatsNothing() throws IOException {
            rows(12);
            shard(1, 3, "--limit", "2");
            assertEquals(List.of("6", "8"), ids("results.1-of-3.jsonl").stream().sorted().toList());

            assertEquals(Exit.OK.code, shard(1, 3).code());
            assertEquals(Exit.OK.code, shard(1, 3).code());

            assertEquals(List.of("10", "12", "6", "8", "9"), ids("results.1-of-3.jsonl").stream().sorted().toList());
            assertEquals(5, dify.runs());
        }

        @Test
        void mayBeNamedByItsResultsToo() throws IOException {
            rows(12);
            shard(3, 3, "--limit", "1");
            var results = file("results.3-of-3.jsonl").toString();

            assertEquals(Exit.ROWS_FAILED.code, call(Map.of(), "status", "-i", input(), "-o", results).code());
            assertEquals(Exit.OK.code, call(dify.settings(), "run", "-i", input(), "-o", results, "--mode", "blocking").code());

            assertEquals(Exit.OK.code, call(Map.of(), "status", "-i", input(), "-o", results).code());
            assertEquals(2, dify.runs());
        }

        @Test
        void passesOverIdsOfOtherShards() throws IOException {
            rows(12);

            var named = shard(3, 3, "--ids", "5,6,8");
            assertEquals(Exit.OK.code, named.code(), named.err());
            assertTrue(named.err().contains(" 2 ids of other shards (6, 8)"),
                    named.err());
            var again = dify.command("retry", "1", "7", "--shard", "3/3");
            assertEquals(Exit.OK.code, again.code(), again.err());
            assertTrue(again.err().contains(" 1 id of other shards (1)"), again.err());

            assertEquals(List.of("5", "7"), ids("results.3-of-3.jsonl"));
        }

        @Test
        void refusesAnIdThatWouldBeItsOwnAndIsInNoCsv() throws IOException {
            rows(4); // 5 would be the third's

            var call = shard(3, 3, "--ids", "5");

            assertEquals(Exit.UNUSABLE.code, call.code());
            assertTrue(call.sentence().contains("there is no row with the id \"5\""), call.err());
        }

        @Test
        void withoutRowsHasNothingToDo() throws IOException {
            rows(4); // none is the third's

            for (var call : List.of(shard(3, 3), dify.command("retry", "--shard", "3/3")))
                assertEquals(Exit.OK.code, call.code(), call.err());

            assertEquals(0, dify.requests());
        }

        @Test
        void findsTheSameFaultsInItsRowsAsOneProcess() throws IOException {
            csv("id,text", "5,a", "6,a", "5,b", "6,b");

            assertTrue(shard(3, 3).err().contains(":4: duplicate id \"5\""));
        }

        @Test
        void checksItsRowsAlone() throws IOException {
            rows(12);

            var call = dify.command("check", "--shard", "3/3", "--json");

            assertEquals(Exit.UNUSABLE.code, call.code(), "check has no -o and no --progress");
            var check = call(dify.settings(), "check", "-i", input(), "--shard", "3/3", "--json");
            assertEquals(2, tree(check.out()).path("rows").asInt(), check.out());
        }

        @Test
        void isNamedByItsCheckAsTheOneToRun() throws IOException {
            rows(12);

            var call = call(Map.of(), "check", "--demo", "-i", input(), "--shard", "3/3");

            assertEquals("Next: difyexec run -i " + input() + " -o results.jsonl --demo --shard=3/3",
                    call.out().lines().toList().getLast());
        }

        @ParameterizedTest
        @CsvSource(delimiter = '|', textBlock = """
                1/3 | 1/4 | this batch was begun in 3 shards, not 4
                1/3 |     | not merged yet, and its rows would be paid twice
                    | 1/3 | this batch was begun without --shard
                """)
        void isRefusedBesideABatchThatIsCutOtherwise(String first, String then, String told) throws IOException {
            rows(12);
            dify.run(shardOption(first));
            int runs = dify.runs();

            var call = dify.run(shardOption(then));

            assertEquals(Exit.UNUSABLE.code, call.code(), call.err());
            assertTrue(call.sentence().contains(told), call.err());
            assertEquals(runs, dify.runs());
        }

        private static String[] shardOption(String shard) {
            return shard == null ? new String[0] : new String[] {"--shard", shard};
        }

        @Test
        void isRefusedInFilesOfAnother() throws IOException {
            rows(12);
            shard(1, 3);
            for (var suffix : List.of("", ".log"))
                Files.move(file("results.1-of-3.jsonl" + suffix), file("results.2-of-3.jsonl" + suffix));

            var call = shard(2, 3);

            assertEquals(Exit.UNUSABLE.code, call.code());
            assertTrue(call.sentence().contains("begun with --shard 1/3, not with --shard 2/3"), call.err());
        }
    }

    @Nested
    class TheStatusOfAll {
        @Test
        void hasALineForEach() throws IOException {
            rows(12);
            dify.row("9", dify.ended("failed", "no"));
            shard(1, 3);
            shard(3, 3, "--limit", "1");

            var call = call(Map.of(), "status", "-i", input(), "-o", output());

            assertEquals(Exit.ROWS_FAILED.code, call.code(), call.err());
            var lines = call.out().lines()
                    .map(line -> line.strip().replaceAll(" +", " ").replaceAll("\\d{4}-.*", "TIME"))
                    .toList();
            assertEquals(List.of(output() + ": 2 of 3 shards begun, not merged yet", "",
                    "shard rows succeeded failed pending in flight last event", "1/3 5 4 1 0 0 TIME",
                    "2/3 5 0 0 5 0 not begun", "3/3 2 1 0 1 0 TIME", "total 12 5 1 6 0", "",
                    "Shard 2/3 has no files here: bring them if it ran elsewhere.",
                    next("run", " --mode=blocking --progress=off --shard=2/3")), lines);
        }

        @Test
        void namesWithoutTheCsvTheOneThatItsShardsWereTold() throws IOException {
            rows(12);
            shard(1, 3, "--id-column", "id", "--demo");
            var run = next("run", " --id-column=id --mode=blocking --progress=off --demo --shard=2/3");

            assertTrue(call(Map.of(), "status", "-o", output()).out().strip().endsWith(run));

            shard(2, 3);
            shard(3, 3);
            assertTrue(call(Map.of(), "status", "-o", output()).out().strip()
                    .endsWith(next("merge", " --id-column=id")));
        }

        @Test
        void isOneObject() throws IOException {
            rows(12);
            allThree();

            var call = call(Map.of(), "status", "--json", "-i", input(), "-o", output());

            assertEquals(Exit.OK.code, call.code(), call.err());
            var json = tree(call.out());
            assertEquals("total succeeded partial failed paused unknown pending attempts retries total_tokens in_flight "
                    + "shards", keys(json));
            assertEquals(List.of(12, 12), List.of(json.path("total").asInt(), json.path("succeeded").asInt()));
            assertEquals(List.of("1/3 5", "2/3 5", "3/3 2"), json.path("shards").valueStream()
                    .map(part -> part.path("shard").asText() + " " + part.path("succeeded").asInt()).toList());
        }

        @Test
        void knowsItsRowsWithoutTheCsv() throws IOException {
            rows(12);
            shard(3, 3);

            var call = call(Map.of(), "status", "--json", "-o", output());

            assertEquals(Exit.ROWS_FAILED.code, call.code(), "two have not begun");
            assertEquals(2, tree(call.out()).path("total").asInt());
        }

        @Test
        void namesTheCsvOfItsShardsInTheMergeThatComesNext() throws IOException {
            rows(12);
            allThree();

            var call = call(Map.of(), "status", "-o", output());

            assertEquals(next("merge", ""), call.out().lines().toList().getLast());
        }

        @Test
        void isThatOfTheMergedBatchOnceThereIsOne() throws IOException {
            mergedOfThree();

            assertEquals("succeeded=12", status());
        }

        @ParameterizedTest
        @ValueSource(strings = {"status --html report.html", "export back.csv"})
        void isAllThatThereIsBefore(String command) throws IOException {
            rows(12);
            allThree();
            var words = new ArrayList<>(List.of(command.replaceFirst("(\\S+\\.\\S+)$", file("x") + "$1").split(" ")));
            words.addAll(List.of("-i", input(), "-o", output()));

            var call = call(Map.of(), words.toArray(String[]::new));

            assertEquals(Exit.UNUSABLE.code, call.code());
            assertTrue(call.sentence().contains("'merge' makes"), call.err());
        }
    }

    @Nested
    class TheMerge {
        /// Without what differs between two runs of the same rows.
        private static JsonNode steady(String json) throws IOException {
            var status = (ObjectNode) tree(json);
            return status.remove(List.of("started_at", "updated_at", "running_seconds", "rows_per_second", "seconds"));
        }

        private String shown(String output, String... command) throws IOException {
            var words = new ArrayList<>(List.of(command));
            words.addAll(List.of("-i", input(), "-o", output));
            return call(Map.of(), words.toArray(String[]::new)).out();
        }

        /// The spreadsheet, without seconds.
        private List<String> export(String output) throws IOException {
            shown(output, "export", file("back.csv").toString(), "--force");
            return content("back.csv").lines().map(row -> row.replaceAll("(,run-\\d+,\\d+),[^,]*", "$1,S")).toList();
        }

        /// The rows of the report's table, without times.
        private List<String> report(String output) throws IOException {
            shown(output, "status", "--html", file("report.html").toString(), "--force");
            var rows = new ArrayList<String>();
            var tables = Pattern.compile("(?s)class=\"rows\">(.*?)</script>").matcher(content("report.html"));
            while (tables.find()) for (var row : tree(tables.group(1)))
                rows.add(List.of(row.get(0), row.get(1), row.get(2), row.get(6), row.get(7), row.get(8)).toString());
            return rows;
        }

        private Map<String, String> snapshot() throws IOException {
            var files = new TreeMap<String, String>();
            for (var suffix : List.of("", ".retry", ".log")) files.put(suffix, content("results.jsonl" + suffix));
            return files;
        }

        private void restore(Map<String, String> files) throws IOException {
            for (var file : files.entrySet()) {
                var path = file("results.jsonl" + file.getKey());
                if (file.getValue().isEmpty()) Files.deleteIfExists(path);
                else Files.writeString(path, file.getValue());
            }
        }

        /// Where the merged batch is not.
        private void elsewhere(Callable<Call> shard) throws Exception {
            var merged = snapshot();
            restore(Map.of("", "", ".retry", "", ".log", ""));
            assertEquals(Exit.OK.code, shard.call().code());
            restore(merged);
        }

        private Call refused(String told, String... more) throws IOException {
            var before = snapshot();
            var call = merge(more);
            assertEquals(Exit.UNUSABLE.code, call.code(), call.err());
            assertTrue(call.sentence().contains(told), call.err());
            assertEquals(before, snapshot(), "nothing is changed");
            assertTrue(names().stream().noneMatch(name -> name.endsWith(".tmp")), names().toString());
            return call;
        }

        @Test
        void isTheBatchOfOneProcess() throws IOException {
            rows(12);
            for (var id : List.of("9", "3")) dify.row(id, dify.ended("failed", "no"));
            var one = file("one.jsonl").toString();
            call(dify.settings(), "run", "-i", input(), "-o", one, "--mode", "blocking", "-c", "1");
            allThree();

            merged();

            assertEquals(steady(shown(one, "status", "--json")), steady(shown(output(), "status", "--json")));
            assertEquals(export(one), export(output()));
            assertEquals(content("one.jsonl.retry"), content("results.jsonl.retry"));
            assertEquals(13, export(output()).size());
            assertEquals(12, report(output()).size());
            assertEquals(report(one), report(output()));
        }

        @Test
        void hasTheLogsByTime() throws IOException {
            rows(12);
            shard(3, 3, "--limit", "1");
            shard(1, 3);
            shard(3, 3);
            shard(2, 3);

            merged();

            var log = read("results.jsonl.log");
            assertEquals(List.of("3/3", "1/3", "3/3", "2/3"), events("session").stream()
                    .map(session -> session.path("shard").asText()).toList());
            var times = log.stream().map(event -> Instant.parse(event.path("t").asText())).toList();
            assertEquals(times.stream().sorted().toList(), times);
            assertEquals("merge", log.getLast().path("event").asText());
            assertEquals(3, log.getLast().path("shards").asInt());
            for (int index = 1; index <= 3; index++) {
                var name = "results." + index + "-of-3.jsonl.log";
                assertTrue(log.containsAll(read(name)));
                assertTrue(log.getLast().path("taken").asText().contains(index + ":" + Files.size(file(name)) + ":"));
            }
        }

        @Test
        void againTakesWhatIsNewAlone() throws IOException {
            rows(12);
            shard(1, 3, "--limit", "1");
            shard(2, 3);
            shard(3, 3);
            merged();
            shard(1, 3);

            merged();
            var after = snapshot();
            merged();

            assertEquals(after, snapshot(), "nothing was new");
            assertEquals(12, events("attempt").size());
            assertEquals(2, events("merge").size());
            assertEquals(Stream.of(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12).map(String::valueOf).toList(),
                    ids("results.jsonl"), "each once");
        }

        @Test
        void goesOnAsABatchAndKeepsWhatThatDid() throws IOException {
            rows(12);
            dify.row("9", dify.ended("failed", "no"), dify.ended("succeeded", ""));
            allThree();
            merged();
            assertEquals("9\n", content("results.jsonl.retry"));

            assertEquals(Exit.OK.code, dify.command("retry").code());
            assertEquals(13, dify.runs());
            shard(2, 3);
            var call = merge();

            assertEquals(Exit.OK.code, call.code(), call.err());
            assertEquals("succeeded=12", status());
            assertEquals(Exit.OK.code, dify.run().code());
            assertEquals(13, dify.runs());
        }

        @Test
        void takesTheNewResultOfARowThatItsShardRanAgain() throws IOException {
            mergedOfThree();
            dify.row("9", dify.answer(200, dify.ended("succeeded", "").build().getBody()
                    .replace("run-{{jsonPath request.body '$.inputs.id'}}", "second")));
            assertEquals(Exit.OK.code, dify.command("retry", "9", "--force", "--shard", "1/3").code());

            merged();

            assertEquals("second", result("9").path("workflow_run_id").asText());
            assertEquals(12, results().size());
        }

        @ParameterizedTest
        @ValueSource(booleans = {false, true})
        void takesTheLastResultOfARowThatHasChanged(boolean isMergedBefore) throws IOException {
            rows(12);
            allThree();
            if (isMergedBefore) merged();
            Files.writeString(file("data.csv"), content("data.csv").replace("text 9", "new 9"));

            assertEquals(Exit.OK.code, shard(1, 3, "--rerun-changed").code());
            merged();

            assertEquals(13, dify.runs());
            assertEquals(12, results().size());
            assertEquals("new 9", result("9").path("inputs").path("text").asText());
            assertEquals(Exit.OK.code, dify.run("--rerun-changed").code());
            assertEquals(13, dify.runs());
        }

        @Test
        void keepsWhatTheMergedBatchHasRunAgain() throws IOException {
            mergedOfThree();
            Files.writeString(file("data.csv"), content("data.csv").replace("text 9", "new 9"));
            assertEquals(Exit.OK.code, dify.run("--rerun-changed").code());

            merged();

            assertEquals(12, results().size());
            assertEquals("new 9", result("9").path("inputs").path("text").asText());
            assertEquals(13, dify.runs());
        }

        @Test
        void refusesARowThatWasPaidTwiceAndKeepsTheEarlierByForce() throws Exception {
            rows(12);
            dify.row("9", dify.ended("failed", "no"), dify.ended("succeeded", ""), dify.answer(200,
                    dify.ended("succeeded", "").build().getBody().replace("run-{{", "second-{{")));
            allThree();
            merged();
            dify.command("retry");
            elsewhere(() -> dify.command("retry", "--shard", "1/3"));

            var call = refused("1 row was paid twice, by two runs (9; first in results.jsonl and results.1-of-3.jsonl)");
            assertTrue(call.sentence().contains("--force keeps the earlier result"));

            var forced = merge("--force");
            assertEquals(Exit.OK.code, forced.code(), forced.err());
            assertTrue(forced.err().contains("Note: 1 row was paid twice"), forced.err());
            assertEquals("run-9", result("9").path("workflow_run_id").asText());
            merged();
            assertEquals("run-9", result("9").path("workflow_run_id").asText());
        }

        @Test
        void refusesARowThatTwoShardsHavePaidAndKeepsTheEarlierByForce() throws IOException {
            rows(12);
            allThree();
            append("results.3-of-3.jsonl", content("results.1-of-3.jsonl").replace("\uFEFF", "").lines()
                    .filter(line -> line.contains("\"id\":\"9\"")).findFirst().orElseThrow()
                    .replace("run-9", "earlier").replaceFirst("\"executed_at\":\"20", "\"executed_at\":\"19") + "\n");

            refused("1 row was paid twice, by two runs (9; first in results.1-of-3.jsonl and results.3-of-3.jsonl)");

            var forced = merge("--force");
            assertEquals(Exit.OK.code, forced.code(), forced.err());
            assertTrue(forced.err().contains("(9; first in results.1-of-3.jsonl and results.3-of-3.jsonl)"),
                    forced.err());
            assertEquals("earlier", result("9").path("workflow_run_id").asText());
            assertEquals(12, results().size());
            merged();
            assertEquals("earlier", result("9").path("workflow_run_id").asText());
        }

        @ParameterizedTest
        @CsvSource({"19, '11 succeeded, 1 partial'", "29, 12 succeeded"})
        void countsARowThatWasPaidTwiceByTheResultThatItKeeps(String century, String counted) throws IOException {
            rows(12);
            allThree();
            append("results.3-of-3.jsonl", content("results.1-of-3.jsonl").replace("\uFEFF", "").lines()
                    .filter(line -> line.contains("\"id\":\"9\"")).findFirst().orElseThrow()
                    .replace("run-9", "other").replace("\"workflow_status\":\"", "\"workflow_status\":\"partial-")
                    .replaceFirst("\"executed_at\":\"20", "\"executed_at\":\"" + century) + "\n");

            var call = merge("--force");

            assertTrue(call.err().contains(": 12 rows, " + counted + "\n"), call.err());
        }

        @Test
        void countsARowByTheResultThatTheMergedBatchHasRunAgain() throws IOException {
            mergedOfThree();
            dify.row("9", dify.answer(200, dify.ended("partial-succeeded", "").build().getBody()
                    .replace("run-{{", "second-{{")));
            assertEquals(Exit.OK.code, dify.command("retry", "9", "--force").code());

            var call = merged();

            assertTrue(call.err().contains(": 12 rows, 11 succeeded, 1 partial\n"), call.err());
        }

        @Test
        void countsAnAttemptOfAnUnknownModeAsUnread() throws IOException {
            rows(12);
            allThree();
            var attempt = content("results.3-of-3.jsonl.log").lines()
                    .filter(line -> line.contains("\"event\":\"attempt\"")).findFirst().orElseThrow();
            append("results.3-of-3.jsonl.log", attempt.replace("\"mode\":\"", "\"mode\":\"other-") + "\n");

            merged();

            assertEquals(1, tree(shown(output(), "status", "--json")).path("unread_lines").asInt());
        }

        @Test
        void refusesARowOutsideItsShard() throws IOException {
            rows(12);
            allThree();
            append("results.3-of-3.jsonl.log", content("results.1-of-3.jsonl.log").lines()
                    .filter(line -> line.contains("\"event\":\"attempt\"")).findFirst().orElseThrow() + "\n");

            refused("results.3-of-3.jsonl: holds the row 6, which is of shard 1/3");
        }

        @Test
        void refusesAMissingShardUnlessItMayBePartial() throws IOException {
            rows(12);
            shard(2, 3);
            refused("shards 1/3, 3/3 are missing, with 7 rows; --partial");

            assertEquals(Exit.OK.code, merge("--partial").code());

            assertEquals("succeeded=5 pending=7", status());
        }

        private void isNotSent(Call call, String told) {
            assertEquals(Exit.UNUSABLE.code, call.code(), call.err());
            assertTrue(call.sentence().contains(told), call.err());
        }

        @Test
        void thatIsPartialLeavesRowsOfMissingShardsToThem() throws IOException {
            rows(12);
            dify.row("2", dify.ended("failed", "no"), dify.ended("succeeded", ""));
            shard(2, 3);
            merge("--partial");

            isNotSent(dify.run(), "7 rows are of shards that were not merged (1/3, 3/3) and would be paid twice");
            isNotSent(dify.command("retry", "5"), "1 row is of shards that were not merged (3/3)");
            assertEquals(5, dify.runs());
            assertEquals(Exit.OK.code, dify.command("retry").code());
            assertEquals(6, dify.runs());

            assertEquals(Exit.OK.code, shard(1, 3).code());
            assertEquals(Exit.OK.code, shard(3, 3).code());
            merged();
            assertEquals("succeeded=12", status());
            assertEquals(13, dify.runs());
        }

        @Test
        void thatIsPartialNamesTheShardToRunAndThenToBeMerged() throws IOException {
            rows(12);
            shard(2, 3);
            var run = next("run", " --mode=blocking --progress=off --shard=1/3");

            var call = merge("--partial");

            assertEquals("Shard 1/3 has no files here: bring them if it ran elsewhere.\n" + run,
                    call.err().lines().skip(1).collect(Collectors.joining("\n")));
            assertTrue(shown(output(), "status").strip().endsWith(run));
            shard(1, 3);
            assertTrue(shown(output(), "status").strip().endsWith(run.replace("1/3", "3/3")));
            shard(3, 3);
            var aside = Files.move(file("results.3-of-3.jsonl"), file("aside")); // as where all of its rows failed
            assertTrue(shown(output(), "status").strip().endsWith(next("merge", "")));
            Files.move(aside, file("results.3-of-3.jsonl"));
            merged();
            assertEquals("succeeded=12", status());
        }

        @Test
        void isNotGoneOnWithWhileAShardRuns() throws IOException {
            rows(12);
            shard(1, 3);
            shard(2, 3);
            shard(3, 3, "--limit", "1");

            try (var _ = BatchFiles.Lock.take(file("results.3-of-3.jsonl.lock"))) {
                merged();
                isNotSent(dify.run(), "results.3-of-3.jsonl.lock: the shard 3/3 is running");
            }

            assertEquals(Exit.OK.code, dify.run().code());
            assertEquals(12, dify.runs());
        }

        @Test
        void thatWentOnByItselfEndsItsShards() throws IOException {
            rows(12);
            dify.row("9", dify.ended("failed", "no"), dify.ended("succeeded", ""));
            allThree();
            merged();
            dify.command("retry");

            isNotSent(dify.command("retry", "--shard", "1/3"), "has taken the shard 1/3 and gone on by itself");

            assertEquals(13, dify.runs());
        }

        @Test
        void knowsWhatAShardDidWhoseLogIsGone() throws IOException {
            mergedOfThree();
            for (var suffix : List.of("", ".log")) Files.delete(file("results.3-of-3.jsonl" + suffix));

            isNotSent(shard(3, 3), "results.3-of-3.jsonl.log: gone or empty, and ");

            assertEquals(12, dify.runs());
        }

        @Test
        void refusesShardsOfAnotherNumberWhenItsOwnAreGone() throws IOException {
            mergedOfThree();
            for (int index = 1; index <= 3; index++) for (var suffix : List.of("", ".log"))
                Files.delete(file("results." + index + "-of-3.jsonl" + suffix));

            isNotSent(shard(1, 4), "this batch was begun in 3 shards, not 4");

            assertEquals(12, dify.runs());
        }

        @Test
        void isNotMovedAsideWhereItsShardsForbidToBeginAnew() throws IOException {
            mergedOfThree();
            var before = snapshot();

            isNotSent(dify.run("--fresh"), "not merged yet");

            assertEquals(before, snapshot());
        }

        /// One machine's clock is an hour behind, and another's is set back at its last event.
        @Test
        void isThatOfOneProcessWhereClocksDiffer() throws IOException {
            rows(12);
            allThree();
            var log = content("results.2-of-3.jsonl.log");
            Files.writeString(file("results.2-of-3.jsonl.log"), setBack(log));
            var last = content("results.3-of-3.jsonl.log").lines().toList();
            Files.writeString(file("results.3-of-3.jsonl.log"), String.join("\n", last.subList(0, last.size() - 1))
                    + "\n" + setBack(last.getLast()) + "\n");

            merged();

            assertEquals(12, report(output()).size());
            assertEquals("succeeded=12", status());
            var status = tree(shown(output(), "status", "--json"));
            assertTrue(status.path("running_seconds").asDouble() >= 0, status.toString());
            assertEquals(Exit.OK.code, dify.run().code());
            assertEquals(12, dify.runs());
        }

        private static String setBack(String events) {
            return Pattern.compile("\"t\":\"([^\"]*)\"").matcher(events).replaceAll(found -> "\"t\":\""
                    + Instant.parse(found.group(1)).minus(Duration.ofHours(1)) + "\"");
        }

        @Test
        void missesNoShardWithoutRows() throws IOException {
            rows(4);
            shard(2, 3);

            merged();

            assertEquals("succeeded=4", status());
        }

        @Test
        void refusesShardsOfTwoNumbers() throws IOException {
            rows(12);
            shard(1, 3);
            Files.copy(file("results.1-of-3.jsonl"), file("results.1-of-4.jsonl"));

            refused("are shards of 3 and of 4: these do not belong together");
        }

        @Test
        void refusesWhereThereIsNone() throws IOException {
            rows(12);

            refused("there is no shard of it, like results.1-of-8.jsonl");
        }

        @ParameterizedTest
        @CsvSource({"'\"app\":\"echo\"', '\"app\":\"other\"'", "'\"base_url\":\"http://', '\"base_url\":\"https://'"})
        void refusesShardsOfTwoApps(String mine, String others) throws IOException {
            rows(12);
            allThree();
            var log = content("results.3-of-3.jsonl.log");
            assertTrue(log.contains(mine), log);
            Files.writeString(file("results.3-of-3.jsonl.log"), log.replace(mine, others));

            refused("these do not belong together");
        }

        @Test
        void refusesAShardThatWasBegunAnew() throws IOException {
            mergedOfThree();
            shard(3, 3, "--fresh");

            refused("results.3-of-3.jsonl.log: begun anew (--fresh) since it was merged");
        }

        @Test
        void refusesAShardWithoutItsLog() throws IOException {
            rows(12);
            allThree();
            Files.delete(file("results.3-of-3.jsonl.log"));

            refused("results.3-of-3.jsonl.log: gone or empty");
        }

        @Test
        void refusesAShardWithoutItsResults() throws IOException {
            rows(12);
            allThree();
            Files.delete(file("results.3-of-3.jsonl"));

            refused("of 2 successes in the logs no results are there (first: 5, of shard 3/3)");
        }

        @Test
        void takesWholeLinesOfAShardThatIsRunning() throws IOException {
            rows(12);
            allThree();
            var log = content("results.3-of-3.jsonl.log");
            int half = log.lastIndexOf("{\"event\":\"end\"") + 20;
            Files.writeString(file("results.3-of-3.jsonl.log"), log.substring(0, half));

            try (var _ = BatchFiles.Lock.take(file("results.3-of-3.jsonl.lock"))) {
                var call = merged();
                assertTrue(call.err().contains("Running now, and taken as far as it is: 3/3; merge again"), call.err());
            }
            assertEquals(12, results().size());
            assertEquals(11, events("end").size());

            Files.writeString(file("results.3-of-3.jsonl.log"), log);
            merged();
            assertEquals(12, events("end").size());
            assertEquals(12, results().size());
        }

        @Test
        void refusesWhileTheMergedBatchIsWritten() throws IOException {
            rows(12);
            allThree();

            try (var _ = BatchFiles.Lock.take(file("results.jsonl.lock"))) {
                refused("is held: another difyexec");
            }
        }

        /// Results, retry list and log take their places in this order. `moved` of them are the new ones.
        @ParameterizedTest
        @ValueSource(ints = {1, 2})
        void thatACrashCutShortIsMadeAgain(int moved) throws IOException {
            rows(12);
            dify.row("9", dify.ended("failed", "no"), dify.ended("succeeded", ""));
            dify.row("3", dify.ended("failed", "no"));
            shard(1, 3);
            shard(2, 3, "--limit", "1");
            shard(3, 3);
            merged();
            var before = snapshot();
            shard(2, 3);
            dify.command("retry", "--shard", "1/3");
            merged();
            var after = snapshot();

            var between = new TreeMap<>(before);
            Stream.of("", ".retry").limit(moved).forEach(file -> between.put(file, after.get(file)));
            restore(between);
            assertEquals(Exit.UNUSABLE.code, dify.run().code(), "nothing is run before it is merged");
            merged();

            assertEquals(after.get(""), content("results.jsonl"));
            assertEquals("3\n", content("results.jsonl.retry"));
            UnaryOperator<String> timeless = log -> log.replaceAll("(\"event\":\"merge\",\"t\":)\"[^\"]*\"", "$1T");
            assertEquals(timeless.apply(after.get(".log")), timeless.apply(content("results.jsonl.log")));
        }

        @Test
        void cutShortTheFirstTimeIsMadeAgain() throws IOException {
            mergedOfThree();
            var after = snapshot();
            Files.delete(file("results.jsonl.log"));

            assertEquals(Exit.UNUSABLE.code, dify.run().code());
            merged();

            assertEquals(after.get(""), content("results.jsonl"));
        }

        @Test
        void mendsATornEndOfTheMergedBatch() throws IOException {
            mergedOfThree();
            append("results.jsonl.log", "{\"event\":\"att");

            merged();

            assertEquals(1, events("torn").size());
            assertEquals("succeeded=12", status());
        }

        /// As a shard leaves them that was killed.
        private void without(String file, String... words) throws IOException {
            Files.writeString(file(file), content(file).lines()
                    .filter(line -> !Stream.of(words).allMatch(line::contains))
                    .map(line -> line + "\n").collect(Collectors.joining()));
        }

        @Test
        void handsADoubtOnThatIsSettledByTheSameRunWhereverItIsLookedUp() throws Exception {
            rows(12);
            dify.listed("5");
            dify.recorded("5", "succeeded");
            allThree();
            without("results.3-of-3.jsonl", "\"id\":\"5\"");
            without("results.3-of-3.jsonl.log", "\"event\":\"end\"", "\"id\":\"5\"");
            merged();
            assertEquals("succeeded=11 pending=1", status());

            assertEquals(Exit.OK.code, dify.run().code());
            elsewhere(() -> shard(3, 3));
            merged();

            assertEquals("succeeded=12", status());
            assertEquals(12, results().size());
            assertEquals("record", result("5").path("outputs").path("from").asText());
            assertEquals(12, dify.runs());
        }

        @Test
        void handsOnTheTryOfARowWhoseEndAShardHasNotLearnt() throws IOException {
            rows(12);
            dify.listed("5");
            dify.recorded("5", "succeeded");
            allThree();
            without("results.3-of-3.jsonl", "\"id\":\"5\"");
            without("results.3-of-3.jsonl.log", "\"event\":\"end\"", "\"id\":\"5\"");
            var log = content("results.3-of-3.jsonl.log").lines().map(line -> line.contains("\"id\":\"5\"")
                    ? line.replace("\"kind\":\"row\"", "\"kind\":\"try\"") : line);
            Files.writeString(file("results.3-of-3.jsonl.log"), log.collect(Collectors.joining("\n", "", "\n")));
            merged();

            assertEquals(Exit.OK.code, dify.run().code());

            assertEquals("record", result("5").path("outputs").path("from").asText());
            assertEquals(12, dify.runs());
        }

        @Test
        void leavesTheMarkOutWhereItIsNotWanted() throws IOException {
            rows(12);
            allThree();

            merged();
            assertTrue(content("results.jsonl").startsWith("\uFEFF{"));
            assertEquals(1, content("results.jsonl").chars().filter(c -> c == '\uFEFF').count());
            merge("--no-bom");

            assertEquals(-1, content("results.jsonl").indexOf('\uFEFF'));
        }
    }
}

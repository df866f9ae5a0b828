package difyexec;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import org.junit.jupiter.api.*;
import org.junit.jupiter.api.function.ThrowingSupplier;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static org.junit.jupiter.api.Assertions.*;

/// One CSV in several processes, merged into one batch. Of the ids 1 to 12 in three shards,
/// the first has 6, 8, 9, 10, 12, the second 1, 2, 3, 4, 11, the third 5 and 7.
final class ShardsTest extends WholeCommand {
    private final Dify dify = dify();

    @BeforeEach
    void createTwelveRows() throws IOException {
        rows(12);
    }

    private Call shard(int index, int count, String... more) throws IOException {
        return dify.run(words(List.of("--shard", index + "/" + count), more));
    }

    private void allThree() throws IOException {
        for (int index = 1; index <= 3; index++) shard(index, 3);
    }

    /// Twelve rows, run in three shards, and merged.
    private void mergedOfThree() throws IOException {
        allThree();
        merged();
    }

    private Call merge(String... more) throws IOException {
        return ofBatch("merge", more);
    }

    private Call merged() throws IOException {
        return merge().exits(0);
    }

    private String next(String command, String options) {
        return "Next: difyexec " + command + " -i " + input() + " -o " + output() + options;
    }

    private List<String> ids(String results) throws IOException {
        return read(results).stream().map(line -> line.path("id").asText()).sorted().toList();
    }

    @Nested
    class AShard {
        /// Computed by another implementation. They must never change: a row would be paid for twice.
        @ParameterizedTest
        @CsvSource({"row-1, 3, 3", "row-1, 8, 6", "row-1, 1000, 934", "größe, 8, 8", "日本語, 1000, 372", "😀, 8, 8",
                "1, 1, 1", "42, 3, 1", "42, 1000, 638"})
        void isDeterminedByAHashOfTheRowsId(String id, int count, int index) {
            assertEquals(new Shard(index, count), Shard.of(id, count));
            assertTrue(new Shard(index, count).holds(id));
            assertEquals(count == 1, new Shard(index % count + 1, count).holds(id));
        }

        @ParameterizedTest
        @ValueSource(strings = {"row-", "", "uuid"})
        void containsAboutAnEqualShareOfTheRows(String kind) {
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
        void addsItsNumberAndTheNumberOfShardsToFileNames(String output, String named) {
            var shard = new Shard(3, 8);

            assertEquals(Path.of("d", named), shard.of(Path.of("d", output)));
            assertEquals(Optional.of(shard), Shard.in(Path.of("d", named)));
        }

        @ParameterizedTest
        @ValueSource(strings = {"results.jsonl", "results.0-of-8.jsonl", "results.9-of-8.jsonl", "1-of-8.jsonl"})
        void isNotRecognizedInFileNamesOfAnotherFormat(String name) {
            assertEquals(Optional.empty(), Shard.in(Path.of(name)));
        }

        @ParameterizedTest
        @ValueSource(strings = {"0/4", "5/4", "x/4", "1", "1/0", "auto", "auto/8", "-1/2"})
        void isRejectedIfItsNumberOrTheNumberOfShardsIsInvalid(String typed) throws IOException {
            call(Map.of(), typed("run", "--demo", "--shard=" + typed)).exits(2).reports("--shard " + typed + ": ");
        }
    }

    @Nested
    class ARunOfAShard {
        @Test
        void runsOnlyItsRowsAndWritesItsOwnFiles() throws IOException {
            shard(3, 3).exits(0).says("2 of 12 rows");
            assertEquals(List.of("5", "7"), ids("results.3-of-3.jsonl"));
            assertEquals("3/3", read("results.3-of-3.jsonl.log").getFirst().path("shard").asText());
            assertEquals(Set.of("data.csv", "results.3-of-3.jsonl", "results.3-of-3.jsonl.log",
                    "results.3-of-3.jsonl.lock"), names());
        }

        @Test
        void continuesAnEarlierRunWithoutRepeatingRows() throws IOException {
            shard(1, 3, "--limit", "2");
            assertEquals(List.of("6", "8"), ids("results.1-of-3.jsonl"));

            shard(1, 3).exits(0);
            shard(1, 3).exits(0);

            assertEquals(List.of("10", "12", "6", "8", "9"), ids("results.1-of-3.jsonl"));
            assertEquals(5, dify.runs());
        }

        @Test
        void continuesWithoutTheShardOptionIfGivenItsResultsFile() throws IOException {
            shard(3, 3, "--limit", "1");
            var results = path("results.3-of-3.jsonl");

            call(Map.of(), "status", "-i", input(), "-o", results).exits(3);
            call(dify.settings(), "run", "-i", input(), "-o", results).exits(0);

            call(Map.of(), "status", "-i", input(), "-o", results).exits(0);
            assertEquals(2, dify.runs());
        }

        @Test
        void skipsAndReportsSelectedIdsOfOtherShards() throws IOException {
            shard(3, 3, "--ids", "5,6,8").exits(0).says("(6, 8)");
            dify.command("retry", "1", "7", "--shard", "3/3").exits(0).says("(1)");

            assertEquals(List.of("5", "7"), ids("results.3-of-3.jsonl"));
        }

        @Test
        void sendsNothingIfTheShardHasNoRows() throws IOException {
            rows(4); // none belongs to the third shard

            shard(3, 3).exits(0).says("shard has no rows").omits("every row has succeeded");
            dify.command("retry", "--shard", "3/3").exits(0);

            assertEquals(0, dify.requests());
        }

        @Test
        void isSuggestedByACheckThatCountsOnlyItsRows() throws IOException {
            var check = call(dify.settings(), "check", "-i", input(), "--shard", "3/3", "--json");
            var demo = call(Map.of(), "check", "--demo", "-i", input(), "--shard", "3/3");

            assertEquals(2, tree(check.out()).path("rows").asInt(), check.out());
            assertEquals("Next: difyexec run -i " + input() + " -o results.jsonl --demo --shard 3/3",
                    demo.out().lines().toList().getLast());
        }

        @ParameterizedTest
        @CsvSource({"run --shard 1/3, run --shard 1/4, 'in 3 shards, not 4'",
                "run --shard 1/3, run, results.1-of-3.jsonl.log", "run, run --shard 1/3, without --shard"})
        void isRejectedIfTheBatchWasStartedWithOtherSharding(String first, String then, String fact)
                throws IOException {
            dify.line(first);
            int runs = dify.runs();

            dify.line(then).exits(2).reports(fact);
            assertEquals(runs, dify.runs());
        }

        /// Other ids, or other cells.
        @ParameterizedTest
        @CsvSource(delimiter = '|', textBlock = """
                id,text,n/1,a,1/2,b,2/5,c,3 | -c 1          | --id-column=text
                id,text/1,a/2,c/5,e         | -c 1          | --encoding=ISO-8859-1
                id;text;a,b/1;t;2,3/5;t;6,7 | --delimiter=; | --delimiter=, --id-column=b
                {"a":[{"id":1,"text":"x"},{"id":2,"text":"x"},{"id":5,"text":"x"}],"b":[{"id":1,"text":"x"}, \
                {"id":2,"text":"y"},{"id":5,"text":"y"}]} | --rows=/a | --rows=/b
                """)
        void isRejectedIfItReadsTheCsvDifferentlyThanEarlierShards(String csv, String options, String others)
                throws IOException {
            csv(csv.split("/"));
            dify.line("run --shard 3/3 " + options).exits(0);
            int runs = dify.runs();

            for (var shard : List.of("2/3", "3/3"))
                dify.line("run --shard " + shard + " " + others).exits(2).reports("results.3-of-3.jsonl.log").hints();
            assertEquals(runs, dify.runs());
        }

        @Test
        void isRejectedIfAllRowsOfTheCsvBelongToOtherShards() throws IOException {
            shard(1, 3);
            int runs = dify.runs();
            csv("id,text", "5,a", "7,b");

            shard(1, 3).exits(2).reports("5 ids").hints();
            assertEquals(runs, dify.runs());
        }

        @Test
        void isRejectedIfItsFilesAreThoseOfAnotherShard() throws IOException {
            shard(1, 3);
            for (var suffix : List.of("", ".log"))
                Files.move(file("results.1-of-3.jsonl" + suffix), file("results.2-of-3.jsonl" + suffix));

            shard(2, 3).exits(2).reports("started with --shard 1/3");
        }
    }

    @Nested
    class UnmergedShards {
        @Test
        void areShownInOneLineEachWithTheNextCommand() throws IOException {
            dify.row("9", dify.ended("failed", "no"));
            shard(1, 3);
            shard(3, 3, "--limit", "1");

            var lines = ofBatch("status").exits(3).out().lines()
                    .map(line -> line.strip().replaceAll(" +", " ").replaceAll("\\d{4}-.*", "TIME"))
                    .filter(line -> !line.startsWith("No files") && !line.contains("█")).toList();
            assertEquals(List.of(output() + ": 2 of 3 shards started, not merged yet", "", "",
                    "1/3 4 succeeded, 1 failed · 0 unfinished · TIME", "2/3 5 pending · not started",
                    "3/3 1 succeeded, 1 pending · 0 unfinished · TIME", "", next("run", " --mode blocking --shard 2/3")),
                    lines);
        }

        @Test
        void haveANextCommandThatRepeatsTheirOptions() throws IOException {
            shard(1, 3, "--id-column", "id", "--demo");
            var run = next("run", " --demo --mode blocking --shard 2/3");

            assertEquals(run, call(Map.of(), "status", "-o", output()).out().lines().toList().getLast());

            shard(2, 3);
            shard(3, 3);
            assertTrue(call(Map.of(), "status", "-o", output()).out().strip().endsWith(next("merge", "")));
        }

        @Test
        void areShownInOneJsonObjectWithTotalsAndEachShard() throws IOException {
            allThree();

            var json = tree(ofBatch("status", "--json").exits(0).out());
            assertEquals("total succeeded partial failed paused unknown pending shards", keys(json));
            assertEquals(List.of(12, 12), List.of(json.path("total").asInt(), json.path("succeeded").asInt()));
            assertEquals(List.of("1/3 5", "2/3 5", "3/3 2"), json.path("shards").valueStream()
                    .map(part -> part.path("shard").asText() + " " + part.path("succeeded").asInt()).toList());
        }

        @Test
        void areCountedByTheirRecordedRowsIfTheCsvIsMissing() throws IOException {
            shard(3, 3);
            assertEquals(12, tree(call(Map.of(), "status", "--json", "-o", output()).out()).path("total").asInt());
            Files.move(file("data.csv"), file("gone.csv"));

            var call = call(Map.of(), "status", "--json", "-o", output()).exits(3); // two shards have not started

            assertEquals(2, tree(call.out()).path("total").asInt());
        }

        @ParameterizedTest
        @ValueSource(strings = {"run", "retry", "retry 6", "status", "status --html", "export", "compare", "verify", "merge",
                "run --shard 2/3"})
        void ofAnotherVersionAreRejectedWithItsName(String command) throws IOException {
            allThree();
            for (int index = 1; index <= 3; index++) {
                var log = "results." + index + "-of-3.jsonl.log";
                Files.writeString(file(log), content(log).replace("\"format\":4", "\"format\":3")
                        .replaceAll("\"tool\":\"[^\"]*\"", "\"tool\":\"difyexec 0.3.0\""));
            }
            var before = contents();
            int runs = dify.runs();

            var words = new ArrayList<>(List.of(command.split(" ")));
            if (command.equals("compare")) words.addAll(List.of(output(), output()));
            else words.addAll(List.of("-o", output()));
            if (!Set.of("compare", "verify").contains(command)) words.addAll(List.of("-i", input()));
            if (command.equals("export")) words.add(path("back.csv"));
            if (command.contains("--html")) words.add(2, path("report.html"));
            call(dify.settings(), words.toArray(String[]::new)).exits(2).reports("difyexec 0.3.0", "-of-3.jsonl.log");

            assertEquals(before, contents());
            assertEquals(runs, dify.runs());
        }

        @Test
        void cannotBeExportedOrShownInAnHtmlReport() throws IOException {
            allThree();

            ofBatch("status", "--html", path("report.html")).exits(2).says("merge");
            ofBatch("export", path("back.csv")).exits(2).says("merge");
        }
    }

    @Nested
    class AMergeOfShards {
        /// Without everything that differs between two runs of the same rows.
        private static JsonNode steady(String json) throws IOException {
            var status = (ObjectNode) tree(json);
            return status.remove(List.of("started_at", "updated_at", "running_seconds", "rows_per_second", "seconds"));
        }

        private String shown(String output, String... command) throws IOException {
            return call(Map.of(), words(List.of(command), "-i", input(), "-o", output)).out();
        }

        /// The spreadsheet, without seconds.
        private List<String> export(String output) throws IOException {
            shown(output, "export", path("back.csv"), "--force");
            return content("back.csv").lines().map(row -> row.replaceAll("(,run-\\d+,\\d+),[^,]*", "$1,S")).toList();
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

        private void assertRejected(String fact, String... more) throws IOException {
            var before = contents();
            merge(more).exits(2).reports(fact).hints();
            assertEquals(before, contents(), "nothing is changed");
        }

        private void sendsNothing(ThrowingSupplier<Call> call, String fact) {
            int runs = dify.runs();
            assertDoesNotThrow(call).exits(2).reports(fact);
            assertEquals(runs, dify.runs());
        }

        @Test
        void producesTheSameBatchAsASingleProcess() throws IOException {
            for (var id : List.of("9", "3")) dify.row(id, dify.ended("failed", "no"));
            var one = path("one.jsonl");
            call(dify.settings(), "run", "-i", input(), "-o", one, "--mode", "blocking", "-c", "1");
            allThree();

            merged();

            assertEquals(steady(shown(one, "status", "--json")), steady(shown(output(), "status", "--json")));
            assertEquals(13, export(output()).size());
            assertEquals(export(one), export(output()));
            assertEquals(content("one.jsonl.retry"), content("results.jsonl.retry"));
        }

        @Test
        void isRejectedWithTheCsvOfAnotherBatch() throws IOException {
            allThree();
            csv("id,text", "x-1,a", "x-2,b");

            assertRejected("none of them is in this file", "--partial");
            assertEquals(3, names().stream().filter(name -> name.endsWith(".log")).count());

            rows(12);
            merged();
        }

        @Test
        void reportsAndKeepsRowsThatAreNotInTheCsv() throws IOException {
            dify.row("9", dify.ended("failed", "no"));
            allThree();
            csv("id,text", "1,text 1");

            merged().says("11 ids ", " not in the CSV (first: ");

            assertEquals("9\n", content("results.jsonl.retry"));
        }

        @Test
        void ordersTheEventsOfAllLogsByTime() throws IOException {
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
            assertEquals(Files.size(file("results.jsonl")), log.getLast().path("results").asLong());
            for (int index = 1; index <= 3; index++) {
                var name = "results." + index + "-of-3.jsonl.log";
                assertTrue(log.containsAll(read(name + ".merged")));
                assertFalse(Files.exists(file(name)));
            }
        }

        @Test
        void preventsFurtherRunsOfMergedShards() throws IOException {
            mergedOfThree();

            for (var more : List.of(List.<String>of(), List.of("--fresh"), List.of("--ids", "6")))
                sendsNothing(() -> shard(1, 3, more.toArray(String[]::new)), "results.jsonl.log: includes shard 1/3");
            for (var suffix : List.of("", ".log", ".retry")) Files.deleteIfExists(file("results.jsonl" + suffix));
            sendsNothing(() -> shard(1, 3), "shard 1/3");
        }

        /// Puts the logs of this shard and those after it back.
        private void unmerge(int first) throws IOException {
            for (int index = first; index <= 3; index++) {
                var log = "results." + index + "-of-3.jsonl.log";
                Files.move(file(log + ".merged"), file(log));
            }
        }

        /// As after a crash while the logs of the shards were moved aside: 0 to 3 of them were.
        @ParameterizedTest
        @ValueSource(ints = {0, 1, 2, 3})
        void isCompletedIfItWasKilledWhileMovingLogsAside(int moved) throws IOException {
            mergedOfThree();
            var after = snapshot();
            unmerge(moved + 1);
            if (moved < 3) for (var option : List.of("--limit=9", "--fresh"))
                sendsNothing(() -> dify.run(option), "results." + (moved + 1) + "-of-3.jsonl.log");
            assertEquals(after, snapshot(), "nothing is moved aside");

            merged();

            assertEquals(after.get(""), content("results.jsonl"));
            assertEquals(12, events("attempt").size());
            assertEquals(1, events("merge").size());
            dify.run().exits(0);
            assertEquals(12, dify.runs());
        }

        @Test
        void producesABatchThatCanBeRetriedButNotMergedAgain() throws IOException {
            dify.row("9", dify.ended("failed", "no"), dify.ended("succeeded", ""));
            mergedOfThree();
            assertEquals("9\n", content("results.jsonl.retry"));

            dify.command("retry").exits(0);
            assertEquals("succeeded=12", status());
            assertEquals(13, dify.runs());

            assertRejected("results.jsonl.log: ");
            sendsNothing(() -> dify.command("retry", "--shard", "1/3"), "results.jsonl.log: ");
            sendsNothing(() -> shard(2, 3), "results.jsonl.log: ");
            dify.run().exits(0);
            assertEquals(13, dify.runs());
        }

        @Test
        void isRejectedIfTheBatchWasStartedWithoutShards() throws IOException {
            dify.run();
            var whole = snapshot();
            restore(Map.of("", "", ".log", ""));
            mergedOfThree();

            restore(whole);
            assertRejected("results.jsonl");
            Files.delete(file("results.jsonl.log"));
            assertRejected("results.jsonl");
        }

        @Test
        void keepsTheLatestResultOfAChangedRow() throws IOException {
            allThree();
            replace("data.csv", "text 9", "new 9");

            shard(1, 3, "--rerun-changed").exits(0);
            merged();

            assertEquals(13, dify.runs());
            assertEquals("succeeded=12", status());
            assertEquals("new 9", result("9").path("inputs").path("text").asText());
            dify.run("--rerun-changed").exits(0);
            assertEquals(13, dify.runs());
        }

        @Test
        void rejectsAShardWithARowOfAnotherShard() throws IOException {
            allThree();
            var log = content("results.3-of-3.jsonl.log");
            append("results.3-of-3.jsonl.log", line("results.1-of-3.jsonl.log", "\"event\":\"attempt\""));
            assertRejected("results.3-of-3.jsonl: row 6 ");

            Files.writeString(file("results.3-of-3.jsonl.log"), log);
            append("results.3-of-3.jsonl", line("results.1-of-3.jsonl", "\"id\":\"9\""));
            assertRejected("results.3-of-3.jsonl: row 9 ");
        }

        /// The first line of a file that has this text.
        private String line(String name, String text) throws IOException {
            return content(name).replace("\uFEFF", "").lines().filter(line -> line.contains(text)).findFirst()
                    .orElseThrow() + "\n";
        }

        @Test
        void isRejectedIfAShardIsMissingUnlessPartialIsGiven() throws IOException {
            shard(2, 3);
            assertRejected("1/3, 3/3, with 7 rows");
            rows(4); // all of shard 2
            merged();
            rows(12);

            merge("--partial").exits(0);

            assertEquals("succeeded=5 pending=7", status());
        }

        @Test
        void canBeCompletedWithTheMissingShardsIfItWasPartial() throws IOException {
            dify.row("2", dify.ended("failed", "no"), dify.ended("succeeded", ""));
            shard(2, 3);
            merge("--partial");

            sendsNothing(() -> dify.run(), "(1/3, 3/3)");
            sendsNothing(() -> dify.command("retry", "5"), "(1/3, 3/3)");
            sendsNothing(() -> shard(2, 3, "--ids", "2"), "includes shard 2/3");
            assertEquals(5, dify.runs());
            shard(1, 3).exits(0);
            shard(3, 3).exits(0);
            merged();
            assertEquals("succeeded=11 failed=1", status());
            dify.command("retry").exits(0);
            assertEquals(13, dify.runs());
        }

        @Test
        void suggestsTheMissingShardsThenTheMergeIfItWasPartial() throws IOException {
            shard(2, 3);

            merge("--partial").says("--shard 1/3");
            assertTrue(shown(output(), "status").contains("--shard 1/3"));
            shard(1, 3);
            assertTrue(shown(output(), "status").contains("--shard 3/3"));
            shard(3, 3);
            assertTrue(shown(output(), "status").contains("difyexec merge "));
            merged();
            assertEquals("succeeded=12", status());
        }

        @Test
        void preventsRunsOfMergedShardsEvenIfTheirFilesAreGone() throws IOException {
            mergedOfThree();
            for (var suffix : List.of("", ".log.merged")) Files.delete(file("results.3-of-3.jsonl" + suffix));

            assertRejected("includes shard 3/3", "--partial");
            sendsNothing(() -> shard(3, 3), "results.jsonl.log: includes shard 3/3");
            for (int index = 1; index <= 2; index++) for (var suffix : List.of("", ".log.merged"))
                Files.delete(file("results." + index + "-of-3.jsonl" + suffix));
            sendsNothing(() -> shard(1, 4), "started in 3 shards, not 4");
            assertEquals("succeeded=12", status());
        }

        @Test
        void isRejectedWhileAShardOrTheBatchIsRunning() throws IOException {
            allThree();
            try (var _ = BatchFiles.of(file("results.3-of-3.jsonl")).acquire()) {
                assertRejected("results.3-of-3.jsonl.lock is locked");
            }
            try (var _ = BatchFiles.of(file("results.jsonl")).acquire()) {
                assertRejected("results.jsonl.lock is locked");
                sendsNothing(() -> shard(1, 3), "results.jsonl.lock is locked");
            }
            merged();

            try (var _ = BatchFiles.of(file("results.3-of-3.jsonl")).acquire()) {
                sendsNothing(() -> dify.run(), "results.3-of-3.jsonl.lock is locked");
                assertRejected("results.3-of-3.jsonl.lock is locked");
            }
            dify.run().exits(0);
            assertEquals(12, dify.runs());
        }

        /// One machine's clock is an hour behind, and another's is set back at its last event.
        @Test
        void keepsAllRowsEvenIfTheClocksOfTheShardsDiffer() throws IOException {
            allThree();
            var log = content("results.2-of-3.jsonl.log");
            replace("results.2-of-3.jsonl.log", log, setBack(log));
            var last = content("results.3-of-3.jsonl.log").lines().toList().getLast();
            replace("results.3-of-3.jsonl.log", last, setBack(last));

            merged();

            assertEquals("succeeded=12", status());
            var status = tree(shown(output(), "status", "--json"));
            assertTrue(status.path("running_seconds").asDouble() >= 0, status.toString());
            dify.run().exits(0);
            assertEquals(12, dify.runs());
        }

        private static String setBack(String events) {
            return Pattern.compile("\"t\":\"([^\"]*)\"").matcher(events).replaceAll(found -> "\"t\":\""
                    + Instant.parse(found.group(1)).minus(Duration.ofHours(1)) + "\"");
        }

        @Test
        void rejectsShardsThatDoNotMatchOrLackTheirLog() throws IOException {
            assertRejected("results.jsonl: no shards");
            allThree();
            var log = content("results.3-of-3.jsonl.log");
            for (var change : Map.of("\"base_url\":\"http://", "\"base_url\":\"https://",
                    "\"id_column\":\"id\"", "\"id_column\":\"text\"",
                    "\"shard\":\"3/3\"", "\"shard\":\"2/3\"").entrySet()) {
                replace("results.3-of-3.jsonl.log", change.getKey(), change.getValue());
                assertRejected("results.3-of-3.jsonl.log");
                Files.writeString(file("results.3-of-3.jsonl.log"), log);
            }
            Files.copy(file("results.1-of-3.jsonl"), file("results.1-of-4.jsonl"));
            assertRejected("results.1-of-4.jsonl");

            Files.delete(file("results.1-of-4.jsonl"));
            Files.delete(file("results.3-of-3.jsonl.log"));
            assertRejected("results.3-of-3.jsonl.log");
        }

        /// The server has no runs of the other rows either: these could have been deleted there.
        @Test
        void leavesRowsToALookUpIfTheResultsOfAShardAreMissing() throws IOException {
            allThree();
            Files.delete(file("results.3-of-3.jsonl"));

            merge().says("up to 2 rows");

            int runs = dify.runs();
            dify.recorded("5", "succeeded");
            dify.listed("5", user("5"));
            dify.run().exits(3).says("1 result recovered", "1 unknown");
            assertEquals(runs, dify.runs(), "nothing is sent again");
            assertEquals(11, ids().size());
        }

        /// The log is moved into place first, then the results, the retry list, and the log's last line.
        @ParameterizedTest
        @ValueSource(ints = {1, 2, 3})
        void isCompletedIfItWasKilledWhileReplacingFiles(int done) throws IOException {
            dify.row("9", dify.ended("failed", "no"), dify.ended("succeeded", ""));
            dify.row("3", dify.ended("failed", "no"));
            shard(1, 3);
            shard(2, 3, "--limit", "1");
            shard(3, 3);
            var before = snapshot();
            shard(2, 3);
            dify.command("retry", "--shard", "1/3");
            merged();
            var after = snapshot();
            int runs = dify.runs();

            var between = new TreeMap<>(before);
            between.put(".log", after.get(".log").replaceAll("(?m)^.*\"event\":\"merge\".*\n", ""));
            if (done > 1) between.put("", after.get(""));
            if (done > 2) between.put(".retry", after.get(".retry"));
            restore(between);
            unmerge(1);
            sendsNothing(() -> dify.run(), "not merged");
            merged();

            assertEquals(after.get(""), content("results.jsonl"));
            assertEquals("3\n", content("results.jsonl.retry"));
            UnaryOperator<String> timeless = log -> log.replaceAll("(\"event\":\"merge\",\"t\":)\"[^\"]*\"", "$1T");
            assertEquals(timeless.apply(after.get(".log")), timeless.apply(content("results.jsonl.log")));
            dify.run();
            assertEquals(runs + 1, dify.runs(), "the row that failed");
        }

        @Test
        void keepsUnresolvedAttemptsForALookUp() throws IOException {
            dify.listed("5");
            dify.recorded("5", "succeeded");
            allThree();
            without("results.3-of-3.jsonl", "\"id\":\"5\"");
            without("results.3-of-3.jsonl.log", "\"event\":\"end\"", "\"id\":\"5\"");
            append("results.3-of-3.jsonl.log", "{\"event\":\"end\",\"t\":\"20"); // torn, as the rest
            merged();
            assertEquals("succeeded=11 pending=1", status());

            dify.run().exits(0);

            assertEquals("succeeded=12", status());
            assertEquals("record", result("5").path("outputs").path("from").asText());
            assertEquals(12, dify.runs());
        }

        private void without(String file, String... words) throws IOException {
            Files.writeString(file(file), content(file).lines()
                    .filter(line -> !Stream.of(words).allMatch(line::contains))
                    .map(line -> line + "\n").collect(Collectors.joining()));
        }

        /// A line that cannot be read may record a result or a run, as for `run`.
        @ParameterizedTest
        @CsvSource({"results.1-of-3.jsonl, 'id\":\"9'", "results.1-of-3.jsonl.log, 'event\":\"attempt'"})
        void rejectsADamagedLineOfAShard(String file, String part) throws IOException {
            allThree();
            replace(file, part, "\0".repeat(part.length()));

            assertRejected(file + ":");
            assertRejected(file + ":", "--partial");
        }

        /// Without the log of the merged batch, nothing shows what ran after the merge.
        @Test
        void cannotBeContinuedWithoutTheLogOfTheMergedBatch() throws IOException {
            dify.row("9", dify.ended("failed", "no"), dify.ended("succeeded", ""));
            mergedOfThree();
            dify.command("retry").exits(0);
            var after = snapshot();
            for (var gone : List.of(List.of("", ".log", ".retry"), List.of(".log"))) {
                restore(after);
                for (var suffix : gone) Files.deleteIfExists(file("results.jsonl" + suffix));

                for (var line : List.of("run", "run --fresh", "run --shard 1/3", "retry 9"))
                    sendsNothing(() -> dify.line(line), ".log.merged");
                for (var command : List.of("status", "merge"))
                    ofBatch(command).exits(2).reports("results.jsonl.log", ".log.merged").hints();
            }

            restore(Map.of("", "", ".log", "", ".retry", ""));
            unmerge(1);
            merged();
            dify.command("retry").exits(0);
            assertEquals("succeeded=12", status());
        }

        @ParameterizedTest
        @CsvSource({"jsonl, 'id\":\"6'", "jsonl.log, 'event\":\"attempt'"})
        void leavesNoFileOpenIfItIsRejected(String file, String part) throws IOException {
            var open = Path.of("/proc/self/fd");
            Assumptions.assumeTrue(Files.isDirectory(open));
            allThree();
            append("results.3-of-3." + file, line("results.1-of-3." + file, part));
            assertRejected("results.3-of-3.jsonl: row 6 ");

            try (var files = Files.list(open)) {
                assertEquals(List.of(), files.map(link -> {
                    try {
                        return Files.readSymbolicLink(link);
                    } catch (IOException _) {
                        return link; // it was only open while the folder was read
                    }
                }).filter(path -> path.startsWith(folder)).toList());
            }
        }

        @Test
        void writesOnlyOneByteOrderMarkAndNoneIfNoBomIsSet() throws IOException {
            mergedOfThree();
            assertTrue(content("results.jsonl").startsWith("\uFEFF{"));
            assertEquals(1, content("results.jsonl").chars().filter(c -> c == '\uFEFF').count());
            merge("--no-bom");

            assertEquals(-1, content("results.jsonl").indexOf('\uFEFF'));
        }
    }
}

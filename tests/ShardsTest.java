package difyexec;

import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.Given.json;
import static difyexec.Given.tree;
import static org.junit.jupiter.api.Assertions.*;

/// One CSV in several processes, and their results in one file. Of the ids 1 to 12 in three shards,
/// the first has 6, 8, 9, 10, 12, the second 1, 2, 3, 4, 11, the third 5 and 7.
final class ShardsTest extends WholeCommand {
    private Simulated dify;

    @BeforeEach
    void createTwelveRows() throws IOException {
        dify = new Simulated("--latency", "10ms");
        rows(12);
    }

    private Call shard(int index, int count, String... more) throws IOException {
        return dify.run(words(List.of("--shard", index + "/" + count), more));
    }

    private void allThree() throws IOException {
        for (int index = 1; index <= 3; index++) shard(index, 3);
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
            assertEquals(new Shard(index, count), Shard.ofRow(id, count));
            assertTrue(new Shard(index, count).holds(id));
            assertEquals(count == 1, new Shard(index % count + 1, count).holds(id));
        }

        @ParameterizedTest
        @ValueSource(strings = {"row-", "", "uuid"})
        void containsAboutAnEqualShareOfTheRows(String kind) {
            var random = new SplittableRandom(1);
            var ids = IntStream.rangeClosed(1, 100_000).mapToObj(number -> kind.equals("uuid")
                    ? new UUID(random.nextLong(), random.nextLong()).toString() : kind + number);

            var sizes = ids.collect(Collectors.groupingBy(id -> Shard.ofRow(id, 8), Collectors.counting()));

            assertEquals(8, sizes.size());
            assertAll(sizes.entrySet().stream().map(each -> () ->
                    assertTrue(Math.abs(each.getValue() - 12_500) <= 375, each.toString())));
        }

        @ParameterizedTest
        @CsvSource({"results.jsonl, results.3-of-8.jsonl", "results, results.3-of-8", "a.b.csv, a.b.3-of-8.csv",
                "results.3-of-8.jsonl, results.3-of-8.jsonl"})
        void addsItsNumberAndTheNumberOfShardsToFileNames(String output, String named) {
            var shard = new Shard(3, 8);

            assertEquals(Path.of("d", named), shard.fileFor(Path.of("d", output)));
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

        /// It would run the rows of the other shards, which are on another machine.
        @Test
        void isRejectedUnderANameWithoutAShard() throws IOException {
            shard(1, 3);
            int runs = dify.runs();
            for (var end : List.of("", ".log")) Files.move(file("results.1-of-3.jsonl" + end), file("may.jsonl" + end));

            call(dify.settings(), "run", "-i", input(), "-o", path("may.jsonl")).exits(2).reports("--shard 1/3").hints();

            assertEquals(runs, dify.runs());
            call(dify.settings(), "run", "-i", input(), "-o", path("may.jsonl"), "--fresh").exits(0);
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
            dify.server.close(); // a request would end the command with another code

            shard(3, 3).exits(0).says("shard has no rows").omits("every row has succeeded");
            dify.command("retry", "--shard", "3/3").exits(0);
        }

        @Test
        void isSuggestedByACheckThatCountsOnlyItsRows() throws IOException {
            var check = call(dify.settings(), "check", "-i", input(), "--shard", "3/3", "--json");
            var demo = call(Map.of(), "check", "--demo", "-i", input(), "--shard", "3/3");

            assertEquals(2, tree(check.out()).path("rows").asInt(), check.out());
            assertEquals("Next: difyexec run -i " + Text.shell(input()) + " -o results.jsonl --demo --shard 3/3",
                    demo.out().lines().toList().getLast());
        }

        @ParameterizedTest
        @CsvSource({"run --shard 1/3, run --shard 1/4, 'in 3 shards, not 4'",
                "run --shard 1/3, run, results.1-of-3.jsonl", "run, run --shard 1/3, without --shard"})
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

        /// Even before the other process has written its first line.
        @ParameterizedTest
        @CsvSource({"results.jsonl, run --shard 1/3", "results.1-of-3.jsonl, run", "results.1-of-3.jsonl, run --shard 1/4",
                "results.1-of-3.jsonl, run --shard 1/3"})
        void isRejectedWhileAProcessWithOtherShardingIsRunning(String results, String line) throws IOException {
            try (var _ = BatchFiles.of(file(results)).acquire()) {
                dify.line(line).exits(2).reports(results + ".lock is locked");
            }
            assertEquals(0, dify.runs());
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
    class AFileBesideAShard {
        private static final String RESULT = """
                {"id":"9","status":"success","inputs":{},"outputs":{},"user":"u-1"}
                """, ORIGINAL = RESULT.replace(",\"user\":\"u-1\"", "");

        /// Results of ours and of the original tool, logs of earlier versions, damaged first lines, a list of ids.
        static Stream<Arguments> filesOfTheWholeBatch() {
            var old = "{\"event\":\"start\",\"t\":\"2025-11-30T18:16:20Z\",\"tool\":\"difyexec 0.2.0\"}\n";
            var third = "{\"event\":\"session\",\"t\":\"2025-11-30T18:16:20Z\",\"format\":3,\"tool\":\"difyexec 0.3.0\"}\n";
            return Stream.of(Arguments.of("results.jsonl", RESULT), Arguments.of("results.jsonl", ORIGINAL),
                    Arguments.of("results.jsonl", "\0\0\0"), Arguments.of("results.jsonl", "junk"),
                    Arguments.of("results.jsonl.log", old), Arguments.of("results.jsonl.log", third),
                    Arguments.of("results.jsonl.log", "\0".repeat(80) + "\n"),
                    Arguments.of("results.jsonl.log", "junk\n"),
                    Arguments.of("results.jsonl.log", third.substring(0, 40)),
                    Arguments.of("results.jsonl.log", "{\"event\":\"attempt\",\"t\":\"2025-11-30T18:16:20Z\"}\n"),
                    Arguments.of("results.jsonl.retry", "9\n"));
        }

        /// Any file of the whole batch may know rows of the shard, even one that cannot be read.
        @ParameterizedTest
        @MethodSource("filesOfTheWholeBatch")
        void isEnoughToRejectTheShardIfItIsOfTheWholeBatch(String name, String content) throws IOException {
            Files.writeString(file(name), content);
            var before = contents();

            for (var options : List.of("run --shard 1/2", "run --shard 2/2 --fresh", "retry --shard 1/2"))
                dify.line(options).exits(2).reports("results.jsonl: ", "without --shard").hints();

            assertEquals(0, dify.runs());
            assertEquals(before, without(contents(), ".lock"));
        }

        private static Map<String, String> without(Map<String, String> files, String suffix) {
            var rest = new TreeMap<>(files);
            rest.keySet().removeIf(name -> name.endsWith(suffix));
            return rest;
        }
    }

    @Nested
    class JoinedResults {
        /// What `cat results.*-of-3.jsonl >joined.jsonl` makes.
        private String join() throws IOException {
            var joined = new StringBuilder();
            for (int index = 1; index <= 3; index++) joined.append(content("results." + index + "-of-3.jsonl"));
            Files.writeString(file("joined.jsonl"), joined);
            return path("joined.jsonl");
        }

        @Test
        void haveEveryRowInStatusExportAndCompare() throws IOException {
            replace("data.csv", "9,", "9,[fail]");
            allThree();
            var joined = join();
            assertEquals(3, content("joined.jsonl").chars().filter(letter -> letter == '\uFEFF').count());

            var status = tree(call(Map.of(), "status", "--json", "-i", input(), "-o", joined).exits(3).out());
            assertEquals("12 11 1", Stream.of("total", "succeeded", "pending").map(key -> status.path(key).asText())
                    .collect(Collectors.joining(" ")));
            call(Map.of(), "status", "-i", input(), "-o", joined).shows("  remaining      1 row: ").omits("likely 0 s", ": 0 s");
            call(Map.of(), "export", "-i", input(), "-o", joined, path("out.csv")).exits(0).says("11 with a result");
            assertEquals(11, content("out.csv").lines().filter(line -> line.contains(",succeeded,")).count());
            call(Map.of(), "status", "-o", joined, "--html", path("page.html")).exits(0);
            var one = path("one.jsonl");
            call(dify.settings(), "run", "-i", input(), "-o", one);
            call(Map.of(), "compare", "--json", one, joined).shows(json("'same':11,"));
        }

        /// A torn line is the last one of a shard, alone or joined with the first one of the next shard.
        @ParameterizedTest
        @CsvSource({"1, joined.jsonl:5", "3, joined.jsonl:12"})
        void areRejectedWithTheLineIfAShardWasTorn(int torn, String place) throws IOException {
            allThree();
            var name = "results." + torn + "-of-3.jsonl";
            Files.writeString(file(name), content(name).substring(0, content(name).length() - 30));
            var joined = join();

            call(Map.of(), "status", "-i", input(), "-o", joined).exits(2).reports(place).hints();
            call(Map.of(), "status", "--json", "-o", joined).exits(2).reports(place);
            call(Map.of(), "export", "-i", input(), "-o", joined, path("out.csv")).exits(2).reports(place);
            call(Map.of(), "compare", joined, path("results.2-of-3.jsonl")).exits(2).reports(place);
            assertFalse(names().contains("out.csv"));
        }

        @ParameterizedTest
        @ValueSource(strings = {"run", "run --limit 1", "retry", "retry 9", "run --shard 1/2"})
        void cannotBeContinued(String line) throws IOException {
            replace("data.csv", "9,", "9,[fail]");
            allThree();
            var joined = join();
            var before = contents();
            dify.server.close(); // a request would end the command with another code
            var words = words(List.of(line.split(" ")), "-i", input(), "-o", joined);

            for (int again = 0; again < 2; again++) call(dify.settings(), words).exits(2).reports("joined.jsonl: ").hints();

            assertEquals(before, contents());
        }

        /// The lines of the original tool have no user.
        @Test
        void ofTheOriginalToolContinue() throws IOException {
            allThree();
            join();
            Files.writeString(file("joined.jsonl"), content("joined.jsonl").lines()
                    .filter(line -> !line.contains("\"id\":\"9\"")).map(line ->
                            line.replaceAll(",\"user\":\"[^\"]*\"", "") + "\n").collect(Collectors.joining()));
            int runs = dify.runs();

            call(dify.settings(), "run", "-i", input(), "-o", path("joined.jsonl")).exits(0);

            assertEquals(runs + 1, dify.runs());
        }

        @Test
        void areSuggestedIfTheWholeBatchIsNamed() throws IOException {
            shard(1, 3);

            for (var command : List.of("status", "export"))
                call(Map.of(), words(List.of(command), "-i", input(), "-o", output(), path("out.csv"))).exits(2);
            ofBatch("status").exits(2).reports("results.jsonl: ").says("results.1-of-3.jsonl");
        }

        @Test
        void haveNoNextCommandThatContinuesThem() throws IOException {
            shard(1, 3);
            Files.copy(file("results.1-of-3.jsonl"), file("joined.jsonl"));

            call(Map.of(), "status", "-i", input(), "-o", path("joined.jsonl")).exits(3).omits("Next: ");
        }
    }
}

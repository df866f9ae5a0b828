package difyexec;

import com.fasterxml.jackson.databind.JsonNode;
import org.junit.jupiter.api.Nested;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.DifyExec.Attempt.Names;
import static difyexec.DifyExec.OutputFile.Fetched;
import static difyexec.Given.*;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

/// What the engine keeps count of: files that are to be kept, names, sessions, the tally.
final class AgendaTest {
    /// With rows whose outputs hold files that are to be kept.
    @Nested
    class FilesOfOutputs {
        @TempDir Path folder;

        private static final Fetched AWAY = new Fetched.Missing("HTTP 503", true);
        private static final Fetched DEAD = new Fetched.Missing("HTTP 403", false);

        /// A run with so many files, in `out`.
        private static Response.Ran with(int files, String id) {
            return succeeded("run-" + id).with(IntStream.rangeClosed(1, files).mapToObj(n -> new OutputFile(
                    "http://h/" + id + n, 0, Path.of("out", id + "-" + n + ".txt"))).toList());
        }

        private Scene scene(String... ids) throws IOException {
            var scene = Scene.of(folder, ids);
            scene.answer = (attempt, _) -> with(1, attempt.row().id());
            return scene;
        }

        private static List<String> files(JsonNode result) {
            return StreamSupport.stream(result.path("files").spliterator(), false).map(JsonNode::asText).toList();
        }

        @Test
        void areThereBeforeTheRowCountsAsDone() throws Exception {
            var scene = scene("a");
            scene.answer = (_, _) -> with(3, "a");
            var onDisk = new ArrayList<Boolean>();
            scene.fetched = file -> {
                onDisk.add(Files.exists(scene.output));
                return new Fetched.There(Path.of(file.place() + "~2"));
            };

            assertEquals(Optional.empty(), scene.play());

            assertEquals(List.of(false, false, false), onDisk);
            assertEquals(List.of("out/a-1.txt~2", "out/a-2.txt~2", "out/a-3.txt~2"), files(scene.results().getFirst()));
            assertEquals(List.of("succeeded"), scene.outcomes("a"));
            assertTrue(scene.tally.isAllDone());
        }

        @Test
        void areTriedAgainWithBackOffWhileTheirRowsPlaceIsFree() throws Exception {
            var scene = scene("a", "b", "c");
            scene.backoff = new Backoff(seconds(10), seconds(60), 0);
            scene.fetched = file -> file.link().contains("a1") && scene.fetches.size() < 5 ? AWAY
                    : new Fetched.There(file.place());
            scene.answer = (attempt, _) -> {
                scene.world.pass(seconds(2));
                return with(1, attempt.row().id());
            };

            assertEquals(Optional.empty(), scene.play());

            assertEquals(List.of("b", "c", "a"), scene.resultIds());
            assertEquals(List.of("out/a-1.txt"), files(scene.results().getLast()));
            assertEquals(1, scene.busiest);
            assertTrue(scene.world.passed().compareTo(seconds(12)) > 0, "a's file has waited");
            var seconds = scene.log("end").stream().map(end -> end.path("seconds").asDouble()).toList();
            assertEquals(List.of(2.0, 2.0, 2.0), seconds, "a row's time is that of its run");
        }

        @Test
        void areWhatTheProgressSaysThatItsRowWaitsFor() throws Exception {
            var scene = scene("a");
            scene.fetched = _ -> scene.fetches.size() < 5 ? AWAY : DEAD;
            var shown = new LinkedHashSet<String>();
            scene.watched = tally -> shown.add(new Progress.OneLine(tally).plain());

            scene.play();

            assertTrue(shown.stream().anyMatch(line -> line.contains("1 fetching files")), shown.toString());
        }

        @Test
        void areListedAtTheEndInTheCsvsOrder() throws Exception {
            var scene = scene("a", "b");
            scene.fetched = file -> file.link().contains("a") ? AWAY : DEAD;
            scene.answer = (attempt, _) -> with(2, attempt.row().id());

            scene.play();

            assertEquals(List.of("b", "a"), scene.resultIds(), "a's files are waited for");
            assertEquals("4 files of 2 rows could not be fetched (a, b): see 'missing' in the log; 'retry --force ID' "
                    + "runs such a row anew", scene.tally.missingFiles.toString());
        }

        @Test
        void areGivenUpWhenTheirLinksAreDeadAndEachIsTold() throws Exception {
            var scene = scene("a", "b");
            scene.fetched = file -> file.link().contains("a") ? AWAY : DEAD;
            scene.answer = (attempt, _) -> with(2, attempt.row().id());

            assertEquals(Optional.empty(), scene.play());

            assertEquals(List.of("b", "a"), scene.resultIds(), "a run that is paid for is kept");
            assertEquals(List.of(), scene.retryIds());
            assertFalse(scene.tally.isAllDone());
            assertEquals(List.of("b-1.txt", "b-2.txt", "a-1.txt", "a-2.txt"), Scene.texts("file",
                    scene.log("missing")));
            assertEquals(List.of("HTTP 403", "HTTP 403", "HTTP 503", "HTTP 503"), Scene.texts("why",
                    scene.log("missing")));
            assertEquals(List.of("missing", "missing", "end", "missing", "missing", "end"), Scene.texts("event",
                    scene.log()).stream().filter(List.of("missing", "end")::contains).toList());
            assertEquals(1, scene.said.stream().filter(said -> said.contains("could not be fetched")).count());
            assertTrue(scene.fetches.size() > 10, "again and again");
            assertTrue(scene.world.passed().compareTo(seconds(300)) < 0, scene.world.passed().toString());
            assertTrue(scene.world.passed().compareTo(seconds(200)) > 0, scene.world.passed().toString());
        }

        @Test
        void takeThePlacesOfRowsThatWouldStart() throws Exception {
            var ids = IntStream.range(0, 12).mapToObj(n -> "row" + n).toArray(String[]::new);
            var scene = scene(ids);
            scene.slots = 3;
            scene.fetchTakes = seconds(5);
            var together = new ArrayList<Integer>();
            scene.answer = (attempt, _) -> {
                together.add(scene.busy + scene.fetching);
                scene.world.pass(seconds(1));
                return with(2, attempt.row().id());
            };

            assertEquals(Optional.empty(), scene.play());

            assertEquals(12, scene.resultIds().size());
            assertTrue(Collections.max(together) <= 3, together.toString());
            assertEquals(3, scene.mostFetches);
        }

        @Test
        void keepRowsFromStartingOnceManyWaitForTheirs() throws Exception {
            var ids = IntStream.range(0, 600).mapToObj(n -> "row" + n).toArray(String[]::new);
            var scene = scene(ids);
            scene.backoff = new Backoff(seconds(200), seconds(200), 0);
            scene.fetched = _ -> AWAY;
            scene.interruptAfter(seconds(50));

            scene.play();

            assertEquals(501, scene.sent.size());
            assertEquals(501, scene.resultIds().size());
        }

        @Test
        void areFetchedForARunThatWasLookedUp() throws Exception {
            var scene = scene("a");
            scene.answer = Answer.inTurn(cut(Symptom.CUT, run("run-a")));
            scene.found = _ -> ended(with(1, "a"));

            scene.play();

            assertEquals(List.of("out/a-1.txt"), files(scene.results().getFirst()));
        }

        @Test
        void areFetchedByTheNextCallWhenThisOneDies() throws Exception {
            var scene = scene("a");
            scene.fetched = _ -> {
                throw new IllegalStateException("the power fails");
            };
            assertThrows(IllegalStateException.class, scene::play);
            assertEquals(List.of(), scene.log("end"));
            var next = scene("a");
            next.found = _ -> ended(with(1, "a"));

            next.play();

            assertEquals(0, next.sent.size());
            assertEquals(List.of("out/a-1.txt"), files(next.results().getFirst()));
        }

        /// One file is there, one waits for another try, one is on its way.
        private Scene halfDone() throws Exception {
            var scene = scene("a", "b");
            scene.backoff = new Backoff(seconds(200), seconds(200), 0);
            scene.answer = (_, _) -> with(3, "a");
            scene.fetched = file -> {
                try {
                    if (file.link().endsWith("3")) scene.world.pass(seconds(600));
                } catch (InterruptedException problem) {
                    throw new IllegalStateException(problem);
                }
                return file.link().endsWith("2") ? AWAY : new Fetched.There(file.place());
            };
            scene.interruptAfter(seconds(1));
            return scene;
        }

        private static void isKeptWithWhatIsThere(Scene scene) throws IOException {
            assertEquals(List.of("out/a-1.txt"), files(scene.results().getFirst()));
            assertEquals(List.of("succeeded"), scene.outcomes("a"));
            assertEquals(Map.of("a-2.txt", "HTTP 503", "a-3.txt", "the call ended first"), scene.log("missing").stream()
                    .collect(Collectors.toMap(line -> line.path("file").asText(), line -> line.path("why").asText())));
        }

        @Test
        void haveTheGraceAfterAnInterruptAndThenTheResultIsKeptWithoutThem() throws Exception {
            var scene = halfDone();

            assertEquals(Exit.INTERRUPTED, scene.play().orElseThrow().exit());

            isKeptWithWhatIsThere(scene);
            assertEquals(seconds(21), scene.world.passed());
            assertEquals(List.of("a"), scene.ids());
        }

        @Test
        void areLeftAtASecondInterrupt() throws Exception {
            var scene = halfDone();
            scene.interruptAfter(seconds(2));

            assertEquals(Exit.INTERRUPTED, scene.play().orElseThrow().exit());

            isKeptWithWhatIsThere(scene);
            assertTrue(scene.world.passed().compareTo(seconds(4)) < 0, scene.world.passed().toString());
        }
    }

    @Nested
    class TheNames {
        @Test
        void noTwoAttemptsOfTwoStartsShareAUser() {
            var first = new Names(null);
            var second = new Names("");

            var users = Stream.of(first.next(), first.next(), second.next()).map(Names.Name::user).toList();

            assertEquals(3, Set.copyOf(users).size());
            users.forEach(user -> assertTrue(user.matches("difyexec-[0-9a-f]{16}-[12]"), user));
        }

        @Test
        void aFixedUserIsTakenAsItIs() {
            var names = new Names("nightly");

            assertEquals("nightly", names.next().user());
            assertEquals(2, names.next().sequence());
            assertFalse(Names.isUnique("nightly"));
        }
    }

    @Nested
    class TheSession {
        @TempDir Path folder;

        @Test
        void theRetryListIsWholeAlsoWhenTheBatchStopsEarly() throws IOException {
            var csv = Files.writeString(folder.resolve("data.csv"), "id,text\na,[fail]\nb,[fail]\nc,x\n");
            var output = folder.resolve("results.jsonl");
            var err = new StringWriter();

            int code = commandLine(Env.of(Map.of())).setErr(new PrintWriter(err))
                    .execute("run", "--demo", "-i", csv.toString(), "-o", output.toString(), "-c", "1",
                            "--max-failures", "2", "--progress", "off");

            assertEquals(Exit.STOPPED.code, code, err.toString());
            assertEquals(List.of("a", "b"), Files.readAllLines(folder.resolve("results.jsonl.retry")));
        }
    }

    @Nested
    class TheTally {
        private final World world = new World();
        private final Tally tally = new Tally(10, new Pace(5, null, null), world.clock);

        private void end(Outcome outcome) {
            tally.ended(attempt(0, 0), outcome, seconds(1), world.now());
        }

        private void pass(Duration time) {
            world.mailbox.clear();
            try {
                world.mailbox.poll(time.toNanos(), TimeUnit.NANOSECONDS);
            } catch (InterruptedException problem) {
                throw new IllegalStateException(problem);
            }
        }

        @Test
        void countsEachOutcomeByItself() {
            end(Outcome.SUCCEEDED);
            end(Outcome.SUCCEEDED);
            end(Outcome.PARTIAL);
            end(new Outcome(RowStatus.FAILED, "no"));
            end(new Outcome(RowStatus.PAUSED, "waits"));
            end(new Outcome(RowStatus.UNKNOWN, "who knows"));

            assertEquals(6, tally.done());
            assertEquals(3, tally.succeeded());
            assertEquals(2, tally.count(RowStatus.SUCCEEDED));
            assertEquals(1, tally.count(RowStatus.UNKNOWN));
            assertFalse(tally.isAllDone());
        }

        @Test
        void isAllDoneOnlyWhenEveryRowAskedForSucceeded() {
            for (int row = 0; row < 9; row++) end(Outcome.SUCCEEDED);
            assertFalse(tally.isAllDone());

            end(Outcome.PARTIAL);

            assertTrue(tally.isAllDone());
        }

        @Test
        void theTimeLeftIsThatOfTheRowsLeftAtTheRecentRate() {
            tally.started(world.now());
            assertEquals(Optional.empty(), tally.timeLeft());
            pass(seconds(10));
            for (int row = 0; row < 5; row++) end(Outcome.SUCCEEDED);
            assertEquals(Optional.of(seconds(10)), tally.timeLeft());

            for (int row = 0; row < 5; row++) end(Outcome.SUCCEEDED);
            assertEquals(Optional.empty(), tally.timeLeft());
        }

        @Test
        void theRateIsThatOfTheLastRows() {
            pass(seconds(100)); // a slow start
            for (int row = 0; row < 5; row++) {
                end(Outcome.SUCCEEDED);
                pass(seconds(2));
            }

            assertEquals(0.4, tally.rate(), 0.001);
            assertEquals(seconds(110), tally.elapsed());
        }
    }

    @Nested
    class TheProgressLine {
        private final World world = new World();
        private final Tally tally = new Tally(5_000, new Pace(5, null, null), world.clock);

        /// 1,240 rows of 5,000, ten a second, one in ten of them failed, each with ten tokens at a price.
        private Progress.OneLine line(Optional<String> rest) {
            tally.started(world.now());
            for (int row = 1; row <= 1_240; row++) {
                if (row % 5 == 1) pass(Duration.ofMillis(500));
                tally.used(attempt(0, 0), new Usage(1, 10, 3, Optional.of(new BigDecimal("0.001")), "USD"));
                tally.ended(attempt(0, 0), row % 10 == 0 ? new Outcome(RowStatus.FAILED, "no") : Outcome.SUCCEEDED,
                        seconds(1), world.now());
            }
            tally.now = new Tally.Now(5, 2, 0, 0, rest);
            return new Progress.OneLine(tally);
        }

        private void pass(Duration time) {
            try {
                world.mailbox.poll(time.toNanos(), TimeUnit.NANOSECONDS);
            } catch (InterruptedException problem) {
                throw new IllegalStateException(problem);
            }
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                columns | line
                8       | 1240/500
                20      | 1240/5000 (24 %)
                45      | 1240/5000 (24 %) · 10.2/s · 124 failed
                79      | 1240/5000 (24 %) · 10.2/s · 124 failed · 6 min 8 s left · 5 running · 2 waiting
                """)
        void leavesOutOnTheRightWhatDoesNotFit(int columns, String line) {
            assertEquals(line, line(Optional.empty()).within(columns));
        }

        @Test
        void hasTokensAndCostWhereThereIsRoom() {
            assertEquals("1240/5000 (24 %) · 10.2/s · 124 failed · 6 min 8 s left · 5 running · 2 waiting · "
                    + "12400 tokens · 1.24 USD", line(Optional.empty()).within(150));
        }

        @Test
        void hasWhatTheBatchWaitsForInANarrowWindow() {
            assertEquals("1240/5000 (24 %) · waiting 12 s (Retry-After)",
                    line(Optional.of("waiting 12 s (Retry-After)")).within(50));
        }
    }
}

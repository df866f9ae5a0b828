package difyexec;

import com.fasterxml.jackson.databind.JsonNode;
import org.junit.jupiter.api.*;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.DifyExec.Attempt.UserNames;
import static difyexec.DifyExec.Event.*;
import static difyexec.Given.*;
import static org.junit.jupiter.api.Assertions.*;

/// The engine's bookkeeping: files to keep, names, sessions, the tally.
final class AgendaTest {
    /// Some rows have outputs that contain files. Their workers save them.
    @Nested
    class FilesInOutputs {
        @TempDir Path folder;

        private static Response.SavedFiles saved(String... names) {
            return new Response.SavedFiles(Stream.of(names).map(Path::of).toList(), Map.of(), seconds(30));
        }

        private static List<String> files(JsonNode result) {
            return StreamSupport.stream(result.path("files").spliterator(), false).map(JsonNode::asText).toList();
        }

        @Test
        void areListedInTheResultWithoutCountingTheirDownloadTime() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = (_, _) -> {
                scene.world.pass(seconds(2));
                return succeeded("run-a");
            };
            scene.files = _ -> {
                scene.wait(seconds(30));
                return saved("out/a-1.txt", "out/a-2.txt");
            };

            assertEquals(Optional.empty(), scene.play());

            assertEquals(List.of("out/a-1.txt", "out/a-2.txt"), files(scene.results().getFirst()));
            assertEquals(2.0, scene.results().getFirst().path("seconds").asDouble());
            assertTrue(scene.tally.isAllDone());
        }

        @Test
        void areListedAsMissingWithTheReasonIfTheyCannotBeSaved() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.files = _ -> new Response.SavedFiles(List.of(),
                    new TreeMap<>(Map.of("1.txt", "HTTP 403", "2.txt", "HTTP 503")), seconds(1));

            assertEquals(Optional.empty(), scene.play());

            assertEquals(List.of("a", "b"), scene.resultIds());
            assertEquals(List.of(), scene.retryIds());
            assertFalse(scene.tally.isAllDone());
            for (var line : scene.results())
                assertEquals("[\"1.txt: HTTP 403\",\"2.txt: HTTP 503\"]", line.path("missing").toString());
        }

        @Test
        void areSavedOnlyAfterTheirRunIsInTheLog() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.files = _ -> {
                throw new IllegalStateException("the power fails");
            };
            assertThrows(IllegalStateException.class, scene::play);
            assertEquals(List.of("run-a"), Scene.texts("run", scene.log("run")));
            var next = Scene.of(folder, "a");
            next.found = _ -> ended(succeeded("run-a"));
            next.files = _ -> saved("out/a-1.txt");

            next.play();

            assertEquals(0, next.sent.size());
            assertEquals(List.of("out/a-1.txt"), files(next.results().getFirst()));
        }

        /// The first run of row `a` appears after its second has succeeded. Row `b` fails its requirement.
        @Test
        void areNotSavedForAResultThatDoesNotCount() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            var answers = new ArrayDeque<Response>(List.of(cut(Symptom.NO_RESPONSE)));
            scene.require = List.of("/answer");
            scene.answer = (attempt, _) -> attempt.row().id().equals("b")
                    ? succeeded("run-b").with(Response.ChatMessage.NONE, outputs("{}"))
                    : answers.isEmpty() ? succeeded("run-2") : answers.remove();
            scene.found = _ -> scene.sent.size() < 3 ? ABSENT : ended(succeeded("run-1"));
            var saved = new ArrayList<String>();
            scene.files = id -> {
                saved.add(id);
                return saved();
            };

            scene.play();

            assertEquals(List.of("a"), saved);
            assertEquals(1, scene.log("late").size());
        }

        /// Each of the two slots can save the files of one row, and the session waits for them.
        @Test
        void keepTheSlotOfTheirRowUntilTheyAreSaved() throws Exception {
            var scene = Scene.numbered(folder, 6);
            scene.slots = 2;
            var most = scene.downloads(seconds(60));

            assertEquals(Optional.empty(), scene.play());

            assertEquals(2, most.get());
            assertEquals(6, scene.resultIds().size());
        }

        /// Ctrl-C gives the downloads the grace period, like rows that run.
        @ParameterizedTest
        @CsvSource({"5, true", "21, false"})
        void areWaitedForAfterCtrlC(int download, boolean isSaved) throws Exception {
            var scene = Scene.of(folder, "a");
            scene.files = _ -> {
                scene.engine.interrupt("INT");
                scene.wait(seconds(download));
                return saved();
            };

            scene.play();

            assertEquals(isSaved, Files.exists(scene.output));
            assertTrue(scene.said.getFirst().contains("1 running row"), scene.said::toString);
        }
    }

    @Nested
    class GeneratedUserIds {
        @Test
        void areUniqueAcrossAttemptsAndSessions() {
            var first = new UserNames("nightly");
            var second = new UserNames("nightly");

            var users = Stream.of(first.next(), first.next(), second.next()).toList();

            assertEquals(3, Set.copyOf(users).size());
            users.forEach(user -> assertTrue(user.matches("nightly-[0-9a-f]{16}-[12]"), user));
            assertEquals(2, first.count());
        }

        /// Dify 1.9 to 1.16 answer 500 to a user of more than 255 characters.
        @Test
        void aTooLongPrefixOrOneWithAControlCharacterIsRejected() {
            var longest = "n".repeat(200);

            assertTrue(UserNames.isUsable(longest) && new UserNames(longest).next().length() + 18 <= 255);
            assertFalse(UserNames.isUsable(longest + "n"));
            assertFalse(UserNames.isUsable("a\0b"));
        }
    }

    @Nested
    class TheSessionTally {
        private final World world = new World();
        private final Tally tally = tally(10, world.clock);
        private int row = 0;

        private void end(Outcome outcome) {
            tally.countOutcome(row++, RowStatus.PENDING, outcome, 1.0);
        }

        @Test
        void estimatesTheTimeLeftFromTheRateUntilAllRowsAreDone() {
            tally.countSent(0, world.now());
            assertEquals(Optional.empty(), tally.timeLeft());
            world.advance(seconds(10));
            for (int row = 0; row < 5; row++) end(Outcome.SUCCEEDED);
            assertEquals(Optional.of(seconds(10)), tally.timeLeft());

            for (int row = 0; row < 5; row++) end(Outcome.SUCCEEDED);
            assertEquals(Optional.empty(), tally.timeLeft());
        }

        @Test
        void agreesWithTheFiguresReadFromTheBatchFiles(@TempDir Path folder) throws Exception {
            var scene = Scene.of(folder, "a", "b", "c", "d", "e");
            scene.answer = Answer.byRow(Map.of("a", List.of(succeeded("run-a")),
                    "b", List.of(later(503, seconds(1))), "c", List.of(failed("no such city")),
                    "d", List.of(later(429, seconds(1))), "e", List.of(cut(Symptom.NO_RESPONSE))));
            scene.found = question -> question.attempt().row().id().equals("b")
                    ? ABSENT : ended(succeeded("run-e"));

            scene.play();

            var read = Batch.peek(BatchFiles.of(scene.output),
                    Optional.of(Csv.open(scene.csv, Csv.Shape.DEFAULT)), false);
            assertEquals(List.of(7L, 2L, 1L, 1L), counts(scene.tally));
            assertEquals(counts(scene.tally), counts(read.figures()));
            for (var status : RowStatus.values())
                assertEquals(scene.tally.count(status), status == RowStatus.PENDING ? 0 : read.index().count(status));
            assertEquals(scene.tally.latencies(), read.figures().latencies());
            assertEquals(scene.tally.spending.tokens(), read.figures().spending.tokens());
        }

        /// Row `a` is to run; `b` failed and `c` succeeded in an earlier session.
        @Test
        void updatesTheStatusWithoutCountingARowAgainForALateRun() {
            var index = new Index();
            for (var id : List.of("a", "b", "c")) index.findOrAdd(id);
            index.setStatus(1, RowStatus.FAILED);
            index.setStatus(2, RowStatus.SUCCEEDED);
            var batch = new Batch(null, Optional.empty(), index, null, null);
            var rows = new Batch.SessionRows(batch, BitSet.valueOf(new long[] {0b1}), Map.of(),
                    Batch.Selection.PENDING);
            var session = new Tally(rows, new Pace(5), world.clock);

            session.countOutcome(1, RowStatus.FAILED, Outcome.SUCCEEDED, 1.0);
            assertEquals(List.of(0L, 2L, 2L), List.of(session.done(), session.others(),
                    session.countOfAll(RowStatus.SUCCEEDED)));

            session.countOutcome(0, RowStatus.PENDING, Outcome.failed("no"), 1.0);
            session.countOutcome(0, RowStatus.FAILED, Outcome.SUCCEEDED, 1.0);
            assertEquals(List.of(1L, 2L, 3L), List.of(session.done(), session.others(),
                    session.countOfAll(RowStatus.SUCCEEDED)));
            assertEquals(0, session.countOfAll(RowStatus.FAILED));
        }

        /// Row `a` is to run, and `b` failed in an earlier session.
        @Test
        void ignoresALateSuccessOfARowOutsideASessionOfAPart() {
            var index = new Index();
            for (var id : List.of("a", "b")) index.findOrAdd(id);
            index.setStatus(1, RowStatus.FAILED);
            var batch = new Batch(null, Optional.empty(), index, null, null);
            var session = new Tally(new Batch.SessionRows(batch, BitSet.valueOf(new long[] {0b1}), Map.of(),
                    Batch.Selection.named(List.of("a"), false)), new Pace(5), world.clock);

            session.countOutcome(0, RowStatus.PENDING, Outcome.failed("no"), 1.0);
            session.countOutcome(1, RowStatus.FAILED, Outcome.SUCCEEDED, 1.0);

            assertEquals(List.of(1L, 0L),
                    List.of(session.count(RowStatus.FAILED), session.countOfAll(RowStatus.SUCCEEDED)));
            assertFalse(session.isAllDone());
        }

        private static List<Long> counts(Figures figures) {
            return List.of(figures.count(AttemptEvent.class), figures.retries(), figures.count(ThrottleEvent.class),
                    figures.count(HarvestEvent.class));
        }

        @Test
        void computesTheRateFromRecentRowsIgnoringASlowStart() {
            world.advance(seconds(100)); // a slow start
            for (int row = 0; row < 5; row++) {
                end(Outcome.SUCCEEDED);
                world.advance(seconds(2));
            }

            assertEquals(0.4, tally.rate(), 0.001);
            assertEquals(seconds(110), tally.elapsed());
        }

        @Test
        void excludesAPauseFromTheRateButNotFromTheTime() {
            tally.countSent(0, world.now());
            for (int row = 0; row < 4; row++) {
                world.advance(seconds(2));
                tally.tick(world.now(), tally.activity());
                end(Outcome.SUCCEEDED);
            }
            world.advance(seconds(45)); // asleep

            tally.tick(world.now(), tally.activity());

            assertEquals(Optional.of(seconds(12)), tally.timeLeft());
            assertEquals(seconds(53), tally.elapsed());
        }

        @Test
        void computesTheRateWithRowsThatEndBeforeASuspensionIsNoticed() {
            var tally = tally(201, world.clock);
            tally.tick(world.now(), tally.activity());
            world.advance(seconds(45)); // asleep
            for (int row = 0; row < 201; row++)
                tally.countOutcome(row, RowStatus.PENDING, Outcome.SUCCEEDED, 1.0);
            tally.tick(world.now(), tally.activity());

            world.advance(seconds(2));

            assertEquals(99.5, tally.rate(), 0.001);
        }
    }

    @Nested
    class TheProgressLine {
        private final World world = new World();
        private final Tally tally = tally(5_000, world.clock);

        /// 1,240 rows of 5,000, ten a second, one in ten of them failed, each with ten tokens at a price.
        private String line(Optional<String> rest, int columns) {
            tally.countSent(0, world.now());
            for (int row = 1; row <= 1_240; row++) {
                if (row % 5 == 1) world.advance(Duration.ofMillis(500));
                tally.countSpending(row, new Cost(10, new BigDecimal("0.001"), "USD"));
                tally.countOutcome(row, RowStatus.PENDING, row % 10 == 0 ? Outcome.failed("the city is unknown")
                        : Outcome.SUCCEEDED, 1.0);
            }
            tally.tick(world.now(), new Tally.Activity(5, 2, 0, rest));
            return Progress.line(tally, columns);
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                columns | waits for   | line
                8       |             | 1,240/5,
                20      |             | 1,240/5,000 (24 %)
                45      |             | 1,240/5,000 (24 %) · 10.2/s · 124 failed
                104     |             | 1,240/5,000 (24 %) · 10.2/s · 124 failed · 6 min 8 s left \
                · elapsed 2 min 4 s · 5 running · 2 to resend
                127     |             | 1,240/5,000 (24 %) · 10.2/s · 124 failed · 6 min 8 s left \
                · elapsed 2 min 4 s · 5 running · 2 to resend · 12,400 tokens
                158     |             | 1,240/5,000 (24 %) · 10.2/s · 124 failed · 6 min 8 s left \
                · elapsed 2 min 4 s · 5 running · 2 to resend · 12,400 tokens · 1.24 USD
                45      | Retry-After | 1,240/5,000 (24 %) · Retry-After · 10.2/s
                """)
        void dropsPartsToFitTheWidth(int columns, String rest, String line) {
            assertEquals(line, line(Optional.ofNullable(rest), columns));
        }
    }
}

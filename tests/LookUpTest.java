package difyexec;

import difyexec.DifyExec.Limits.Ceiling;
import difyexec.DifyExec.Pace.Rate;
import org.junit.jupiter.api.*;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.DifyExec.Judge.RetryRuns;
import static difyexec.DifyExec.Response.RunStatus;
import static difyexec.Given.*;
import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.*;

/// Unresolved and late runs, interrupts: the engine with scripted answers and a clock moved by hand.
final class LookUpTest {
    @Nested
    class WhatIsInDoubt {
        @TempDir Path folder;

        @Test
        void theTimeOfAStreamCountsFromItsFirstEventAlsoWhenItIsCut() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.mode = Mode.STREAMING;
            scene.answer = (_, listener) -> {
                scene.world.pass(seconds(20)); // in the queue
                listener.accept(new StreamEvent.Began(run("run-a")));
                scene.world.pass(seconds(290));
                return cut(Symptom.CUT, run("run-a"));
            };
            scene.found = _ -> running("run-a");

            scene.play();

            assertEquals(List.of("unknown"), scene.outcomes("a"));
            assertTrue(scene.took("a").compareTo(seconds(320)) >= 0, scene.took("a").toString());
            assertTrue(scene.took("a").compareTo(seconds(321)) < 0, scene.took("a").toString());
        }

        @Test
        void aSilentStreamIsNotWaitedForTwice() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.mode = Mode.STREAMING;
            scene.server = "";
            scene.answer = (_, _) -> {
                scene.world.pass(seconds(300));
                return cut(Symptom.STREAM_SILENT);
            };

            scene.play();

            assertEquals(List.of("unknown"), scene.outcomes("a"));
            assertTrue(scene.world.passed().compareTo(seconds(301)) < 0, scene.world.passed().toString());
        }

        @Test
        void aRunOfAnEarlierStartHasItsTimeFromItsOwnStart() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.crash(1);
            var began = NOON.plusSeconds(100);
            scene.world.startAt(NOON.plusSeconds(200));
            scene.found = _ -> running("run-a", Duration.between(began, scene.world.now()));

            scene.play();

            assertEquals(List.of("unknown"), scene.outcomes("a"));
            assertEquals(NOON.plusSeconds(400), scene.world.now());
        }

        @Test
        void aStoppedRunOverItsTimeGetsAMomentToEndWhateverItsStart() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.mode = Mode.STREAMING;
            scene.answer = scene.streamed("run-7", seconds(300), cut(Symptom.TIMED_OUT, run("run-7")));
            scene.found = _ -> scene.looked.size() < 3 ? running("run-7", Duration.between(NOON, scene.world.now()))
                    : ended(ran("run-7", RunStatus.STOPPED, "Aborted: User requested stop"));

            scene.play();

            assertEquals(List.of("failed"), scene.outcomes("a"));
        }

        @Test
        void aCutRunCountsAsRunningUntilItsEndIsKnown() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.lookTakes = seconds(1);
            scene.answer = Answer.byRow(Map.of("a", List.of(cut(Symptom.NO_ANSWER))));
            scene.found = _ -> scene.looked.size() < 3 ? running("run-7") : ended(succeeded("run-7"));

            scene.play();

            var known = Instant.parse(scene.log("harvest").getFirst().path("t").asText());
            assertEquals("b", scene.sent.getLast().row().id());
            assertFalse(scene.sent.getLast().at().isBefore(known), "b was sent while the run of a went on");
        }

        @Test
        void runsLeftBehindByAKilledServerDoNotDelayTheOtherRows() throws Exception {
            var ids = IntStream.rangeClosed(1, 60).mapToObj(String::valueOf).toArray(String[]::new);
            var scene = Scene.of(folder, ids);
            scene.slots = 5;
            scene.timeout = seconds(40);
            Instant killed = NOON.plusSeconds(3), back = killed.plusSeconds(2);
            var away = new Response.NotSent("connection refused", "");
            scene.answer = (attempt, _) -> {
                boolean isOfTheKilled = attempt.sequence() <= 5;
                if (isOfTheKilled) scene.world.pass(seconds(3));
                else if (scene.world.now().isBefore(back)) return away;
                else scene.world.pass(Duration.ofMillis(200));
                return isOfTheKilled ? cut(Symptom.NO_ANSWER) : succeeded("run-" + attempt.row().id());
            };
            scene.found = unresolved -> scene.world.now().isBefore(back) ? new LookUpResult.Silent(away)
                    : running("run-" + unresolved.attempt().row().id(), Duration.between(NOON, scene.world.now()));

            assertEquals(Optional.empty(), scene.play());

            assertEquals(55, scene.resultIds().size());
            for (var id : scene.resultIds())
                assertTrue(scene.end(id).isBefore(back.plusSeconds(25)), id + " at " + scene.end(id));
            for (var id : List.of("1", "2", "3", "4", "5")) {
                assertEquals(List.of("unknown"), scene.outcomes(id));
                assertTrue(scene.took(id).compareTo(seconds(40)) >= 0, id + " after " + scene.took(id));
                assertTrue(scene.took(id).compareTo(seconds(50)) <= 0, id + " after " + scene.took(id));
            }
        }

        @Test
        void cutRunsTakeHalfTheSlotsAtMost() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c", "d", "e", "f", "g", "h");
            scene.slots = 4;
            scene.lookTakes = seconds(1);
            var together = new TreeSet<Integer>();
            scene.answer = (attempt, _) -> {
                if (attempt.sequence() <= 3) return cut(Symptom.CUT, run("run-" + attempt.row().id()));
                scene.world.pass(seconds(2));
                if (attempt.sequence() > 4) together.add(scene.busy);
                return succeeded("run-" + attempt.row().id());
            };
            scene.found = _ -> running("run-7");

            scene.play();

            assertEquals(2, together.last());
            assertEquals(List.of("d", "e", "f", "g", "h"), scene.resultIds());
        }

        /// A success for which the server needed that long.
        private static Response.Ran took(String run, double seconds) {
            return new Response.Ran(run(run), RunStatus.SUCCEEDED, outputs("{}"), "", "workflow-1",
                    new Usage(seconds, 0, 1, Optional.empty(), ""));
        }

        @ParameterizedTest(name = "the slowest run took {0} s: the next begins after {1} s")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                slowest, after
                1,       10
                2,       10
                6,       24
                """)
        void aCutRunHoldsTheOnlySlotWhileTheServerMayStillRunIt(long slowest, long after) throws Exception {
            var scene = Scene.of(folder, "a", "b", "c");
            scene.answer = (attempt, _) -> {
                if (attempt.row().id().equals("b")) return cut(Symptom.NO_ANSWER);
                scene.world.pass(seconds(slowest));
                return took("run-" + attempt.row().id(), slowest);
            };
            scene.found = _ -> running("run-b");

            scene.play();

            assertEquals(List.of("a", "b", "c"), scene.ids());
            var waited = Duration.between(scene.sent.get(1).at(), scene.sent.get(2).at());
            assertTrue(waited.compareTo(seconds(after)) >= 0 && waited.compareTo(seconds(after + 1)) < 0,
                    waited.toString());
        }

        @Test
        void aServerThatRefusesForTheRunsItLostIsNotAskedAgainForEachRow() throws Exception {
            var ids = IntStream.rangeClosed(1, 1000).mapToObj(String::valueOf).toArray(String[]::new);
            var scene = Scene.of(folder, ids);
            scene.slots = 5;
            scene.timeout = seconds(60);
            scene.answer = (attempt, _) -> {
                if (attempt.sequence() <= 5) return cut(Symptom.NO_ANSWER);
                return scene.world.now().isBefore(NOON.plusSeconds(60)) ? THROTTLED
                        : succeeded("run-" + attempt.row().id());
            };
            scene.found = unresolved -> running("run-" + unresolved.attempt().row().id());

            scene.play();

            assertEquals(995, scene.resultIds().size());
            assertTrue(scene.log("throttle").size() < 60, scene.log("throttle").size() + " refusals in a minute");
        }

        @Test
        void aRunTheServerDoesNotListTakesNoSlot() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.answer = Answer.byRow(Map.of("a", List.of(cut(Symptom.NO_ANSWER))));

            scene.play();

            assertEquals(List.of("a", "b", "a"), scene.ids());
            assertTrue(scene.sent.get(1).at().isBefore(NOON.plusSeconds(5)), scene.sent.get(1).at().toString());
        }

        @Test
        void lookUpsTakeFewOfTheServersConnections() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c", "d", "e", "f");
            scene.slots = 6;
            scene.lookTakes = seconds(1);
            scene.answer = (_, _) -> {
                scene.world.pass(seconds(1));
                return http(500, "unknown", "Internal Server Error");
            };
            scene.found = unresolved -> ended(succeeded("run-" + unresolved.attempt().row().id()));

            scene.play();

            assertEquals(2, scene.mostLooks);
            assertEquals(6, scene.resultIds().size());
        }

        @Test
        void aRunReportedAsStoppedThatSucceededIsRecoveredAndCountedOnce() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.maxTokens = 25L; // each run uses 10
            var stopped = ran("run-7", RunStatus.STOPPED, "Stopped by user.");
            scene.answer = Answer.byRow(Map.of("a", List.of(stopped)));
            scene.found = _ -> ended(scene.looked.size() < 2 ? stopped : succeeded("run-7"));

            var stop = scene.play();

            assertEquals(List.of("succeeded"), scene.outcomes("a"));
            assertEquals(Optional.empty(), stop);
        }

        @Test
        void aRunOverItsTimeIsStoppedAndThenFails() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.mode = Mode.STREAMING;
            scene.answer = scene.streamed("run-7", seconds(300), cut(Symptom.TIMED_OUT, run("run-7")));
            scene.found = unresolved -> !unresolved.is(Symptom.OVERDUE) ? running("run-7", seconds(300))
                    : ended(ran("run-7", RunStatus.STOPPED, "Aborted: User requested stop"));

            scene.play();

            assertEquals(List.of(false, true), scene.looked.stream().map(Unresolved::stopsFirst).toList());
            assertEquals(List.of("failed"), scene.outcomes("a"));
            assertTrue(scene.log("end").getFirst().path("error").asText().startsWith("timed out"));
            assertEquals(List.of("run-7"), Scene.texts("run", scene.log("run")));
            var stop = scene.log("stop").getFirst();
            assertEquals("timed out", stop.path("why").asText());
            assertEquals("task-of-run-7", stop.path("task").asText());
            assertEquals(scene.sent.getFirst().user(), stop.path("user").asText());
        }

        /// The run moves from second 100 to 500 and takes 420 seconds in all. Dify shows the move while it lasts.
        @ParameterizedTest
        @EnumSource(names = {"BLOCKING", "STREAMING"})
        void theTimeInWhichARunMovesToAnotherWorkerDoesNotCount(Mode mode) throws Exception {
            var scene = Scene.of(folder, "a");
            scene.mode = mode;
            scene.answer = mode == Mode.STREAMING
                    ? scene.streamed("run-7", seconds(300), cut(Symptom.TIMED_OUT, run("run-7")))
                    : (_, _) -> {
                        scene.world.pass(seconds(300));
                        return cut(Symptom.TIMED_OUT);
                    };
            scene.found = _ -> {
                var age = Duration.between(NOON, scene.world.now());
                var moved = Math.clamp(age.minus(seconds(100)).toSeconds(), 0, 400);
                return age.toSeconds() < 420 ? running("run-7", age, seconds(moved)) : ended(succeeded("run-7"));
            };

            scene.play();

            assertEquals(List.of("run-7"), scene.resultRuns());
            assertEquals(1, scene.sent.size());
            assertEquals(List.of(""), Scene.texts("task", scene.log("stop")), "only the end of the session");
        }

        @Test
        void aRunStoppedForItsTimeIsNotRunAgainAtALaterStart() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.mode = Mode.STREAMING;
            scene.answer = Answer.inTurn(cut(Symptom.TIMED_OUT, run("run-7")));
            scene.found = _ -> {
                if (scene.looked.size() > 2) throw new IllegalStateException("the power fails");
                return running("run-7");
            };
            assertThrows(IllegalStateException.class, scene::play);
            assertEquals(List.of("timed out"), Scene.texts("why", scene.log("stop")));
            var next = Scene.of(folder, "a");
            next.found = _ -> ended(ran("run-7", RunStatus.STOPPED, "Aborted: User requested stop"));

            next.play();

            assertEquals(List.of(), next.ids());
            assertEquals(List.of("failed"), next.outcomes("a"));
        }

        @Test
        void streamsThatWaitForTheirFirstEventSlowTheBatchDownToThoseThatRun() throws Exception {
            var ids = IntStream.rangeClosed(1, 30).mapToObj(String::valueOf).toArray(String[]::new);
            var scene = Scene.of(folder, ids);
            scene.mode = Mode.STREAMING;
            scene.slots = 6;
            var server = new FullServer(scene, 2, _ -> 10_000);
            scene.answer = server::stream;

            scene.play();

            assertEquals(30, scene.resultIds().size());
            for (var throttle : scene.log("throttle"))
                assertEquals(2, throttle.path("limit").asInt(), throttle::toString);
            assertTrue(scene.log("throttle").size() > 1);
        }

        /// 60 streams of two seconds, six at a time, on a server that is down after five seconds. The first run that it
        /// starts when it is back takes a while.
        private final class Restart {
            final Instant gone = NOON.plusSeconds(5), back;
            final Duration firstWait;
            final Answer dying; // the answer for runs that are active when the server goes down
            final Scene scene = Scene.of(folder, IntStream.rangeClosed(1, 60).mapToObj(String::valueOf)
                    .toArray(String[]::new));
            private int fewest = 6;
            private boolean isWarm = false;

            Restart(long away, long firstWait, Answer dying) throws IOException {
                this.back = gone.plusSeconds(away);
                this.firstWait = seconds(firstWait);
                this.dying = dying;
                scene.mode = Mode.STREAMING;
                scene.slots = 6;
                scene.answer = this::run;
                scene.found = unresolved -> isAway() ? new LookUpResult.Silent(new Response.NotSent("refused", ""))
                        : running(unresolved.run().orElseThrow().id());
                scene.watched = _ -> fewest = Math.min(fewest, scene.pace.places());
            }

            private boolean isAway() {
                return !scene.world.now().isBefore(gone) && scene.world.now().isBefore(back);
            }

            private Response run(Attempt attempt, Consumer<StreamEvent> listener) throws InterruptedException {
                if (isAway()) return new Response.NotSent("refused", "");
                var sent = scene.world.now();
                var wait = sent.isBefore(back) || isWarm ? Duration.ofMillis(30) : firstWait;
                isWarm = !sent.isBefore(back);
                scene.world.pass(wait);
                listener.accept(new StreamEvent.Began(Given.run("run-" + attempt.row().id())));
                boolean dies = sent.isBefore(gone) && !scene.world.now().plusSeconds(2).isBefore(gone);
                scene.world.pass(dies ? Duration.between(scene.world.now(), gone) : seconds(2));
                return dies ? dying.to(attempt, listener) : took("run-" + attempt.row().id(), 2);
            }

            /// All rows except those that died finish within 1.5 times as long as they need on that many slots.
            void assertDone(int dead, int places) throws Exception {
                assertEquals(Optional.empty(), scene.play());

                var ends = new ArrayList<Instant>();
                for (var id : scene.resultIds()) ends.add(scene.end(id));
                assertEquals(60 - dead, ends.size());
                long left = ends.stream().filter(end -> end.isAfter(back)).count();
                var took = Duration.between(back, Collections.max(ends));
                assertTrue(took.compareTo(Duration.ofMillis(1500 * 2 * left / places)) < 0, left + " rows: " + took);
                assertTrue(fewest >= 2, "places: " + fewest);
                assertEquals(dead, scene.tally.count(RowStatus.UNKNOWN));
            }
        }

        @Test
        void rowsContinueAfterTheServerWasKilledWithItsRuns() throws Exception {
            new Restart(120, 8, (attempt, _) -> cut(Symptom.CUT, run("run-" + attempt.row().id()))).assertDone(6, 3);
        }

        @Test
        void rowsContinueDespiteTheStreamsOfAKilledWorker() throws Exception {
            var clock = new AtomicReference<World>();
            var restart = new Restart(0, 0, (attempt, _) -> {
                clock.get().pass(seconds(295)); // its pings continue
                return cut(Symptom.TIMED_OUT, run("run-" + attempt.row().id()));
            });
            clock.set(restart.scene.world);

            restart.assertDone(6, 3);
        }

        @Test
        void rowsContinueAtFullPaceAfterAGracefulRestart() throws Exception {
            new Restart(10, 2, (attempt, _) -> took("run-" + attempt.row().id(), 2)).assertDone(0, 6);
        }

        /// A server with this many connections. Further requests wait, in turn. A connection is reused within a
        /// second, unless someone has waited for two.
        private static final class FullServer {
            private final Scene scene;
            private final int places;
            private final ToLongFunction<Attempt> millis;
            private final Deque<Waiting> outside = new ArrayDeque<>();
            private int inside = 0, idle = 0;

            private record Waiting(Instant since, Runnable wake) {}

            FullServer(Scene scene, int places, ToLongFunction<Attempt> millis) {
                this.scene = scene;
                this.places = places;
                this.millis = millis;
            }

            Response answer(Attempt attempt) throws InterruptedException {
                if (idle > 0) idle--;
                else if (inside < places) inside++;
                else scene.world.waitFor(alarm -> outside.add(new Waiting(scene.world.now(), alarm)));
                var waited = Duration.between(attempt.at(), scene.world.now());
                long takes = millis.applyAsLong(attempt);
                scene.world.pass(Duration.ofMillis(takes));
                answered();
                return took("run-" + attempt.row().id(), takes / 1000.0).after(Optional.of(waited));
            }

            /// A stream that waits in the queue for its first event.
            Response stream(Attempt attempt, Consumer<StreamEvent> listener) throws InterruptedException {
                if (inside < places) inside++;
                else scene.world.waitFor(alarm -> outside.add(new Waiting(scene.world.now(), alarm)));
                var id = "run-" + attempt.row().id();
                listener.accept(new StreamEvent.Began(run(id)));
                scene.world.pass(Duration.ofMillis(millis.applyAsLong(attempt)));
                close();
                return took(id, millis.applyAsLong(attempt) / 1000.0);
            }

            private void answered() {
                if (!outside.isEmpty() && outside.peek().since().plusSeconds(2).isBefore(scene.world.now())) close();
                else {
                    idle++;
                    scene.world.in(seconds(1), () -> {
                        if (idle > 0) {
                            idle--;
                            close();
                        }
                    });
                }
            }

            private void close() {
                if (outside.isEmpty()) inside--;
                else outside.remove().wake().run();
            }
        }

        /// How long 500 rows take there, and to which concurrency the batch slows down.
        private Duration passed(int slots, int places, ToLongFunction<Attempt> millis, List<Integer> limits)
                throws Exception {
            var ids = IntStream.rangeClosed(1, 500).mapToObj(String::valueOf).toArray(String[]::new);
            var scene = Scene.of(Files.createTempDirectory(folder, "door"), ids);
            scene.slots = slots;
            var server = new FullServer(scene, places, millis);
            scene.answer = (attempt, _) -> server.answer(attempt);
            assertEquals(Optional.empty(), scene.play());
            assertEquals(500, scene.resultIds().size());
            for (var cut : scene.log("throttle")) {
                assertTrue(cut.path("why").asText().endsWith("at the server's door"), cut::toString);
                limits.add(cut.path("limit").asInt());
            }
            return scene.world.passed();
        }

        @ParameterizedTest(name = "{0} connections, runs of {1} to {2} ms")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                places, least, most
                10,     300,   300
                10,     1500,  1500
                10,     12000, 12000
                10,     1500,  6000
                10,     4000,  20000
                3,      5000,  5000
                3,      2000,  9000
                """)
        void rowsWaitingForAConnectionSlowTheBatchDownToThoseServed(int places, long least, long most)
                throws Exception {
            var limits = new ArrayList<Integer>();
            ToLongFunction<Attempt> millis = attempt -> least
                    + (most - least) * (attempt.row().id().hashCode() * 37L % 11) / 10;

            var fitting = passed(places, places, millis, new ArrayList<>());
            var all = passed(20, places, millis, limits);

            // a burst hides at first how many are served
            assertTrue(limits.size() > 1 && limits.size() < 60, limits::toString);
            for (int limit : limits.subList(1, limits.size()))
                assertTrue(limit >= places && limit <= places + 2, limits::toString);
            assertTrue(fitting.toMillis() >= 0.9 * all.toMillis(), fitting + " with as many, " + all + " with 20");
        }

        @Test
        void aQuietStreamIsLookedUpAndItsEndTakenFromTheRecords() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.mode = Mode.STREAMING;
            scene.answer = (attempt, listener) -> {
                if (attempt.row().id().equals("b")) return succeeded("run-b");
                listener.accept(new StreamEvent.Began(run("run-7")));
                scene.world.pass(seconds(30));
                listener.accept(new StreamEvent.Idle(run("run-7")));
                scene.world.pass(seconds(30));
                listener.accept(new StreamEvent.Idle(run("run-7")));
                scene.world.waitFor(_ -> {});
                throw new AssertionError("nothing wakes a stream that was given up");
            };
            scene.found = _ -> scene.looked.size() < 2 ? running("run-7") : ended(succeeded("run-7"));

            var stop = scene.play();

            assertEquals(Optional.empty(), stop);
            assertEquals(2, scene.looked.size());
            assertEquals(List.of("succeeded"), scene.outcomes("a"));
            assertEquals(List.of("b", "a"), scene.resultIds(), "b does not wait for a");
        }

        @Test
        void aQuietStreamThatHasEndedIsNotLookedUp() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.mode = Mode.STREAMING;
            scene.answer = (_, listener) -> {
                listener.accept(new StreamEvent.Began(run("run-7")));
                listener.accept(new StreamEvent.Idle(run("run-7")));
                return succeeded("run-7");
            };

            scene.play();

            assertEquals(0, scene.looked.size());
            assertEquals(List.of("succeeded"), scene.outcomes("a"));
        }

        @Test
        void aQuietStreamWhoseRunHasStoppedOnRequestIsInterrupted() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.mode = Mode.STREAMING;
            scene.lookTakes = seconds(5);
            scene.answer = (_, listener) -> {
                listener.accept(new StreamEvent.Began(run("run-7")));
                scene.world.pass(seconds(30));
                listener.accept(new StreamEvent.Idle(run("run-7")));
                scene.world.waitFor(_ -> {});
                throw new AssertionError("nothing wakes a stream that was given up");
            };
            scene.found = _ -> ended(ran("run-7", RunStatus.FAILED, "Aborted: User requested stop"));
            scene.interruptAfter(seconds(33));
            scene.interruptAfter(seconds(34));

            var stop = scene.play().orElseThrow();

            assertEquals(Exit.INTERRUPTED, stop.exit());
            assertEquals(List.of("interrupted"), scene.outcomes("a"));
            assertEquals(List.of(), scene.retryIds());
        }

        @Test
        void anAnswerThatConcernsTheBatchLeavesItsRowsPending() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c");
            scene.answer = Answer.inTurn(succeeded("run-a"), http(401, "unauthorized", "Access token is invalid"));

            var stop = scene.play().orElseThrow();

            assertEquals(Exit.STOPPED, stop.exit());
            assertTrue(stop.text().contains("DIFY_API_KEY"), stop.text());
            assertEquals(List.of("a", "b"), scene.ids());
            assertEquals(List.of("refused"), scene.outcomes("b"));
            assertEquals(List.of(), scene.retryIds());
            assertEquals(List.of("a"), scene.resultIds());
            assertEquals(stop.what(), scene.log("stop").getLast().path("why").asText());
        }

        @Test
        void aLookUpThatConcernsTheBatchAlsoStopsIt() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = Answer.inTurn(cut(Symptom.CUT));
            scene.found = _ -> new LookUpResult.Silent(http(401, "unauthorized", "Access token is invalid"));

            var stop = scene.play().orElseThrow();

            assertTrue(stop.text().contains("DIFY_API_KEY"), stop.text());
            assertEquals(List.of(), scene.retryIds());
        }

        @Test
        void tooManyFailuresStopTheBatch() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c", "d");
            scene.maxFailures = new Ceiling(2, 1);
            scene.answer = Answer.inTurn(failed("no"), succeeded("run-b"), failed("no"));

            var stop = scene.play().orElseThrow();

            assertEquals(Exit.STOPPED, stop.exit());
            assertTrue(stop.text().contains("--max-failures"), stop.text());
            assertEquals(List.of("a", "c"), scene.retryIds());
        }

        @Test
        void aTruncatedCsvStopsTheBatchWithAMessage() throws Exception {
            var ids = IntStream.range(0, 2_000).mapToObj("%063d"::formatted).toArray(String[]::new);
            var scene = Scene.of(folder, ids); // more than is read ahead
            scene.slots = 2;
            scene.answer = (attempt, _) -> {
                scene.world.pass(seconds(1));
                if (scene.sent.size() == 2) shorten(scene.csv, 3 + 1_500 * 64);
                return succeeded("run-" + attempt.row().id());
            };

            var stop = scene.play().orElseThrow();

            assertEquals(Exit.STOPPED, stop.exit());
            assertTrue(stop.text().contains("data.csv:1502") && stop.text().contains("\nhint: "), stop.text());
            assertEquals(scene.ids(), scene.resultIds());
            assertEquals(List.of(stop.what()), Scene.texts("why", scene.log("stop")));
        }

        private static void shorten(Path csv, long bytes) {
            try (var file = FileChannel.open(csv, StandardOpenOption.WRITE)) {
                file.truncate(bytes);
            } catch (IOException problem) {
                throw new UncheckedIOException(problem);
            }
        }

        @Test
        void anInterruptLetsRunningRowsFinishAndStartsNoOthers() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c");
            scene.slots = 2;
            scene.interruptAfter(seconds(1));
            scene.answer = (attempt, _) -> {
                scene.world.pass(seconds(attempt.row().id().equals("a") ? 5 : 9));
                return succeeded("run-" + attempt.row().id());
            };

            var stop = scene.play().orElseThrow();

            assertEquals(Exit.INTERRUPTED, stop.exit());
            assertEquals(List.of("a", "b"), scene.ids());
            assertEquals(List.of("a", "b"), scene.resultIds());
            assertEquals(seconds(9), scene.world.passed());
            assertEquals(List.of(), scene.stopped);
        }

        @ParameterizedTest
        @ValueSource(ints = {1, 2})
        void anInterruptSaysHowManyRowsMayFinish(int running) throws Exception {
            var scene = Scene.of(folder, "a", "b", "c");
            scene.slots = running;
            scene.interruptAfter(seconds(1));
            scene.answer = (attempt, _) -> {
                scene.world.pass(seconds(5));
                return succeeded("run-" + attempt.row().id());
            };

            scene.play();

            assertTrue(scene.said.getFirst().matches(".*\\b" + running + " running row.*\\b20 s\\b.*"), scene.said::toString);
        }

        @Test
        void anInterruptStartsNoLookUp() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.slots = 2;
            scene.interruptAfter(seconds(1));
            scene.answer = (attempt, _) -> {
                if (attempt.row().id().equals("a")) return cut(Symptom.NO_ANSWER);
                scene.world.pass(seconds(9));
                return succeeded("run-b");
            };

            scene.play();

            assertEquals(seconds(9), scene.world.passed());
            assertEquals(List.of(),
                    scene.looked.stream().filter(look -> look.due().isAfter(NOON.plusSeconds(1))).toList());
        }

        @Test
        void anInterruptStopsWhatStillRunsAfterTheGrace() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.mode = Mode.STREAMING;
            scene.interruptAfter(seconds(1));
            scene.answer = (attempt, listener) -> scene.untilStopped(run("run-" + attempt.row().id()), listener);

            var stop = scene.play().orElseThrow();

            assertEquals(Exit.INTERRUPTED, stop.exit());
            assertEquals(List.of("task-of-run-a"), scene.stopped);
            assertTrue(scene.world.passed().compareTo(seconds(21)) >= 0, scene.world.passed().toString());
            assertTrue(scene.world.passed().compareTo(seconds(24)) < 0, scene.world.passed().toString());
            assertEquals(List.of("interrupted"), scene.outcomes("a"));
            assertEquals(List.of(), scene.retryIds());
            assertEquals("task-of-run-a", scene.log("stop").getFirst().path("task").asText());
            assertEquals(List.of("run-a"), Scene.texts("run", scene.log("run")));
        }

        /// As Dify 1.16 does if it cannot write a run's last event.
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                stored,    outcomes
                SUCCEEDED, succeeded
                STOPPED,   interrupted succeeded
                """)
        void anEndMadeUpWhileItsRunIsBeingStoppedProvesNothing(RunStatus stored, String outcomes)
                throws Exception {
            var scene = Scene.of(folder, "a");
            scene.mode = Mode.STREAMING;
            scene.server = "1.16.0";
            scene.interruptAfter(seconds(1));
            scene.answer = (_, listener) -> {
                scene.untilStopped(run("run-7"), listener);
                return new Response.Ran(run("run-7"), RunStatus.FAILED, outputs("{}"),
                        "Workflow stream ended without a terminal event", "", Usage.NONE);
            };
            scene.play();
            assertEquals(List.of("task-of-run-7"), scene.stopped);
            var next = Scene.of(folder, "a");
            next.server = "1.16.0";
            next.found = _ -> ended(ran("run-7", stored, ""));

            next.play();

            assertEquals(List.of(outcomes.split(" ")), next.outcomes("a"));
            assertEquals(List.of(stored.isSuccess() ? "run-7" : "run-a"), next.resultRuns());
        }

        @Test
        void aSecondInterruptStopsActiveRunsAtOnce() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.mode = Mode.STREAMING;
            scene.interruptAfter(seconds(1));
            scene.interruptAfter(seconds(2));
            scene.answer = (attempt, listener) -> scene.untilStopped(run("run-" + attempt.row().id()), listener);

            var stop = scene.play().orElseThrow();

            assertEquals(Exit.INTERRUPTED, stop.exit());
            assertEquals(List.of("task-of-run-a"), scene.stopped);
            assertTrue(scene.world.passed().compareTo(seconds(4)) < 0, scene.world.passed().toString());
        }

        @Test
        void anInterruptWinsOverAnEarlierReasonToStop() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.slots = 2;
            scene.interruptAfter(seconds(1));
            scene.answer = (attempt, _) -> {
                if (attempt.row().id().equals("a")) return http(401, "unauthorized", "Access token is invalid");
                scene.world.pass(seconds(5));
                return succeeded("run-b");
            };

            var stop = scene.play().orElseThrow();

            assertEquals(Exit.INTERRUPTED, stop.exit());
            assertEquals(List.of("b"), scene.resultIds());
        }

        @Test
        void anInterruptEndsABatchThatOnlyWaits() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.interruptAfter(seconds(40));
            scene.backoff = new Backoff(seconds(600), seconds(600), 3);
            scene.answer = Answer.inTurn(failed("Rate Limit Error"));

            var stop = scene.play().orElseThrow();

            assertEquals(Exit.INTERRUPTED, stop.exit());
            assertEquals(seconds(40), scene.world.passed());
            assertEquals(List.of(), scene.retryIds());
        }

        @Test
        void aRunThatAppearsAfterItsRowWasSentAgainIsReportedAsLate() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = Answer.inTurn(cut(Symptom.NO_ANSWER), succeeded("run-8"));
            scene.found = unresolved -> unresolved.is(Purpose.LATE) ? ended(succeeded("run-7")) : ABSENT;

            var stop = scene.play();

            assertEquals(Optional.empty(), stop);
            var late = scene.log("late").getFirst();
            assertEquals("run-7", late.path("run").asText());
            assertEquals(scene.sent.getFirst().user(), late.path("user").asText());
            assertTrue(scene.said.getLast().contains("run-7"), scene.said.toString());
            assertEquals(List.of("run-8"), scene.resultRuns());
        }

        @Test
        void aLateRunIsAlsoReportedAtALaterStart() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = Answer.inTurn(cut(Symptom.NO_ANSWER), succeeded("run-8"));
            scene.play();
            assertEquals(List.of(), scene.log("late"));
            var next = Scene.of(folder, "a", "b");
            next.found = _ -> running("run-7");

            next.play();
            next.play();

            assertEquals(1, next.log("late").size());
            assertEquals("a", next.log("late").getFirst().path("id").asText());
        }

        @Test
        void aLateSuccessIsUsedIfTheRowHasNotSucceeded() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = Answer.inTurn(cut(Symptom.NO_ANSWER), failed("no such city"));
            scene.found = unresolved -> unresolved.is(Purpose.LATE) ? ended(succeeded("run-7")) : ABSENT;

            scene.play();

            assertEquals(List.of("run-7"), scene.resultRuns());
            assertEquals(List.of(), scene.retryIds());
        }

        @Test
        void oneOfTwoRunsOfARowFoundTogetherIsUsed() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.backoff = new Backoff(Duration.ZERO, Duration.ZERO, 2);
            scene.answer = Answer.inTurn(cut(Symptom.NO_ANSWER), cut(Symptom.NO_ANSWER),
                    failed("no such city"));
            scene.found = unresolved -> unresolved.is(Purpose.LATE)
                    ? ended(succeeded("run-of-" + unresolved.attempt().user())) : ABSENT;

            scene.play();

            assertEquals(2, scene.log("late").size());
            assertEquals(1, scene.results().size());
            assertEquals(1, scene.tally.done());
        }

        @Test
        void aRunThatAppearsBeforeItsRowWasSentAgainIsNotLate() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = Answer.inTurn(cut(Symptom.NO_ANSWER));
            scene.found = unresolved -> unresolved.is(Purpose.RESEND) ? ended(succeeded("run-7")) : ABSENT;

            scene.play();

            assertEquals(List.of("run-7"), scene.resultRuns());
            assertEquals(List.of(), scene.log("late"));
            assertEquals(List.of(), scene.said);
        }

        @Test
        void aRowIsSentAgainAfterNoneOfItsEarlierAttemptsAppeared() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = Answer.inTurn(cut(Symptom.NO_ANSWER), cut(Symptom.NO_ANSWER));
            scene.found = unresolved -> unresolved.is(Purpose.RESEND) && scene.sent.size() == 2
                    && unresolved.attempt().user().equals(scene.sent.getLast().user()) ? ended(succeeded("run-7")) : ABSENT;

            scene.play();

            assertEquals(2, scene.sent.size());
            assertEquals(List.of("run-7"), scene.resultRuns());
            String first = scene.sent.getFirst().user(), second = scene.sent.getLast().user();
            assertEquals(List.of(first, first, second), scene.looked.stream()
                    .filter(look -> look.is(Purpose.RESEND)).map(look -> look.attempt().user()).toList());
        }

        @Test
        void anInconclusiveAnswerOnlyDelaysTheRetryOfARow() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = Answer.inTurn(cut(Symptom.NO_ANSWER), succeeded("run-8"));
            var odd = new ArrayDeque<LookUpResult>(List.of(
                    new LookUpResult.Silent(Response.Refused.http(409, false, "", "a page", Optional.empty()))));
            scene.found = unresolved -> {
                assertTrue(scene.looked.size() < 50, "looked up for ever");
                return !unresolved.is(Purpose.RESEND) || odd.isEmpty() ? ABSENT : odd.remove();
            };

            scene.play();

            assertEquals(List.of("run-8"), scene.resultRuns());
        }

        @Test
        void aLateRunOfAnEarlierCallIsUsedIfItsRowFails() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.crash(1);
            scene.world.startAt(NOON.plusSeconds(3600));
            scene.crash(1); // the row was sent again
            var first = scene.looked.getFirst().attempt().user();
            scene.world.startAt(NOON.plusSeconds(7200));
            scene.answer = Answer.inTurn(failed("no such city"));
            scene.found = unresolved -> unresolved.is(Purpose.LATE) && unresolved.attempt().user().equals(first)
                    ? ended(succeeded("run-7")) : ABSENT;

            scene.play();

            assertEquals(List.of("run-7"), scene.resultRuns());
            assertEquals(List.of(), scene.retryIds());
        }

        @Test
        void aLateActiveRunIsReportedOnceAndWaitedFor() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = Answer.inTurn(cut(Symptom.NO_ANSWER), failed("Rate Limit Error"));
            scene.found = unresolved -> {
                if (unresolved.is(Symptom.UNCONFIRMED)) return ended(failed("Rate Limit Error"));
                if (scene.sent.size() < 2) return ABSENT;
                return scene.looked.size() < 20 ? running("run-7") : ended(succeeded("run-7"));
            };

            scene.play();

            assertEquals(List.of("running"), Scene.texts("saw", scene.log("late")));
            assertEquals(2, scene.sent.size());
            assertEquals(List.of("run-7"), scene.resultRuns());
        }

        @Test
        void aLateActiveRunIsWaitedForBeforeItsRowIsSentAtALaterStart() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = Answer.inTurn(cut(Symptom.NO_ANSWER), failed("no such city"));
            scene.found = unresolved -> unresolved.is(Purpose.LATE) ? running("run-7") : ABSENT;
            scene.play();
            assertEquals(List.of("running"), Scene.texts("saw", scene.log("late")));
            scene.sent.clear();
            scene.looked.clear();
            scene.found = _ -> scene.looked.size() < 5 ? running("run-7") : ended(succeeded("run-7"));

            scene.play();

            assertEquals(List.of(), scene.ids());
            assertEquals(List.of("run-7"), scene.resultRuns());
            assertEquals(1, scene.log("late").size());
        }

        /// A row that is unknown because its run stays running for ever.
        private Scene dead(Optional<RunRef> run) throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = Answer.byRow(Map.of("a", List.of(new Response.Cut(run, Symptom.CUT, "gone"))));
            scene.found = _ -> running("run-7");
            scene.play();
            assertEquals(List.of("unknown"), scene.outcomes("a"));
            assertEquals("run-7", scene.log("end").getLast().path("run").asText());
            scene.sent.clear();
            scene.resendUnknown = true;
            return scene;
        }

        @ParameterizedTest
        @ValueSource(booleans = {true, false})
        void aRunThatWasKnownWhenItsRowWasSentAgainIsNotLateInThisCallOrALaterOne(boolean byId) throws Exception {
            var scene = dead(byId ? Optional.of(run("run-7")) : Optional.empty());

            scene.play();
            scene.found = _ -> ended(succeeded("run-7"));
            scene.play();

            assertEquals(List.of("unknown", "resent", "succeeded"), scene.outcomes("a"));
            assertEquals(List.of("a"), scene.ids());
            assertEquals(List.of(), scene.log("late"));
        }

        @Test
        void aRunThatBecameKnownJustBeforeItsRowWasSentAgainIsNotLateEither() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.crash(1);
            scene.world.startAt(NOON.plusSeconds(3600));
            scene.resendUnknown = true;
            scene.found = _ -> running("run-7");
            scene.play();
            assertEquals(List.of("resent", "succeeded"), scene.outcomes("a"));

            scene.play();

            assertEquals(List.of(), scene.log("late"));
        }

        @Test
        void aKnownRunDoesNotDelayFurtherAttemptsOfItsRow() throws Exception {
            var scene = dead(Optional.empty());
            scene.answer = Answer.inTurn(failed("Rate Limit Error"), succeeded("run-9"));
            scene.found = unresolved -> unresolved.is(Symptom.UNCONFIRMED) ? ended(failed("Rate Limit Error"))
                    : running("run-7");
            scene.world.startAt(NOON.plusSeconds(7200));

            scene.play();

            assertEquals(List.of("unknown", "resent", "again", "succeeded"), scene.outcomes("a"));
            assertTrue(scene.world.passed().compareTo(seconds(10)) < 0, scene.world.passed().toString());
        }

        @Test
        void aRunUnknownWhenItsRowWasResentOnRequestIsLate() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.server = "1.9.2";
            scene.mode = Mode.STREAMING;
            scene.answer = Answer.inTurn(cut(Symptom.CUT), succeeded("run-8"));
            scene.play();
            scene.resendUnknown = true;
            scene.found = unresolved -> unresolved.is(Purpose.LATE) ? ended(succeeded("run-7")) : ABSENT;

            scene.play();

            assertEquals(List.of("unknown", "resent", "succeeded"), scene.outcomes("a"));
            assertEquals(List.of("run-7"), Scene.texts("run", scene.log("late")));
        }

        @Test
        void aWorkerThatBreaksIsABug() throws Exception {
            var scene = Scene.of(folder, "a");
            var bug = new IndexOutOfBoundsException("7");
            scene.answer = (_, _) -> {
                throw bug;
            };

            var problem = assertThrows(IllegalStateException.class, scene::play);

            assertEquals(bug, problem.getCause());
        }

        @Test
        void aPausedRowIsLookedUpAndNotSentAgainUnlessAskedFor() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = Answer.inTurn(ran("run-7", RunStatus.PAUSED, ""), succeeded("run-8"));
            scene.found = _ -> new LookUpResult.Running(run("run-7"), RunStatus.PAUSED, Optional.empty(), Duration.ZERO);
            scene.play();
            assertEquals(List.of("a"), scene.retryIds());

            scene.play();

            assertEquals(List.of("paused", "paused"), scene.outcomes("a"));
            assertEquals(Optional.of("run-7"), scene.looked.getFirst().run().map(RunRef::id));
            assertEquals(1, scene.sent.size());
            scene.resendUnknown = true;

            scene.play();

            assertEquals(List.of("paused", "paused", "resent", "succeeded"), scene.outcomes("a"));
            assertEquals(List.of(), scene.retryIds());
        }

        @Test
        void aPausedRowIsRecoveredAfterItsFormIsAnswered() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = Answer.inTurn(ran("run-7", RunStatus.PAUSED, ""));
            scene.play();
            scene.found = _ -> ended(succeeded("run-7"));

            scene.play();

            assertEquals(List.of("paused", "succeeded"), scene.outcomes("a"));
            assertEquals(List.of("a"), scene.resultIds());
        }

        @ParameterizedTest
        @ValueSource(strings = {"Aborted: Client response stream closed before app execution completed",
            "Aborted: App task was stopped"})
        void aPausedRowFailsIfDifyEndedItsRunAfterTheForm(String error) throws Exception {
            var scene = Scene.of(folder, "a");
            scene.server = "1.16.0";
            scene.failedRuns = RetryRuns.ALWAYS;
            scene.answer = Answer.inTurn(ran("run-7", RunStatus.PAUSED, ""));
            scene.play();
            scene.found = _ -> ended(ran("run-7", RunStatus.STOPPED, error));

            scene.play();

            assertEquals(List.of("paused", "failed"), scene.outcomes("a"));
            var cause = Text.cause(scene.error("a"));
            assertTrue(cause.startsWith(error) && cause.contains("form"), cause);
        }

        @Test
        void anUnknownRowIsSentAgainWhenItsIdIsNamed() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.server = "1.9.2";
            scene.mode = Mode.STREAMING; // a stream that this version does not list
            scene.answer = Answer.inTurn(cut(Symptom.NO_ANSWER), succeeded("run-8"));
            scene.play();
            scene.selection = Batch.Selection.named(List.of("a"), false);

            scene.play();

            assertEquals(List.of("unknown", "resent", "succeeded"), scene.outcomes("a"));
        }

        @Test
        void aPartialSuccessIsKeptAndFlagged() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = Answer.inTurn(ran("run-a", RunStatus.PARTIAL, ""));

            scene.play();

            assertEquals("success", scene.results().getFirst().path("status").asText());
            assertEquals("partial-succeeded", scene.results().getFirst().path("workflow_status").asText());
            assertEquals(List.of("partial"), scene.outcomes("a"));
            assertEquals(1, scene.tally.count(RowStatus.PARTIAL));
            assertTrue(scene.tally.isAllDone());
        }

        /// The progress shown during a call.
        private static Set<String> shown(Scene scene) throws Exception {
            var shown = new HashSet<String>();
            scene.watched = tally -> shown.addAll(List.of(Progress.line(tally, 1000).split(" · ")));
            scene.play();
            return shown;
        }

        @Test
        void theWaitForTheNextStartIsShown() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.wait = seconds(5);

            assertTrue(shown(scene).contains("next start in 5.0 s"));
        }

        @Test
        void theWaitSeparatesTheEndOfOneRequestFromTheStartOfTheNext() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c");
            scene.wait = seconds(7);
            scene.answer = (attempt, _) -> {
                scene.world.pass(seconds(2));
                return succeeded("run-" + attempt.row().id());
            };

            scene.play();

            assertEquals(List.of(NOON, NOON.plusSeconds(9), NOON.plusSeconds(18)),
                    scene.sent.stream().map(Attempt::at).toList());
        }

        @Test
        void afterAProxyCutARunTheBatchContinuesWithStreams() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.mode = Mode.AUTO;
            scene.answer = Answer.byRow(Map.of("a", List.of(html(504))));
            scene.found = _ -> ended(succeeded("run-a"));

            scene.play();

            assertEquals(List.of(Mode.BLOCKING, Mode.STREAMING),
                    scene.sent.stream().map(Attempt::mode).toList());
            assertTrue(scene.said.getFirst().contains("streaming mode"), scene.said.toString());
            scene.sent.clear();
            var next = Scene.of(folder, "a", "b", "c");
            next.mode = Mode.AUTO;

            next.play();

            assertEquals(List.of(Mode.STREAMING), next.sent.stream().map(Attempt::mode).toList());
        }

        @Test
        void aNewVersionDuringABatchIsReportedWithTheOptionThatPinsTheOldOne() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            var newer = new Response.Ran(run("run-b"), RunStatus.SUCCEEDED, outputs("{}"), "",
                    "workflow-2", Usage.NONE);
            scene.answer = Answer.inTurn(succeeded("run-a"), newer);

            scene.play();

            assertTrue(scene.said.getFirst().contains("--workflow-id workflow-1"), scene.said.toString());
        }

        @Test
        void theVersionOfTheLastRowIsNotReportedAsNew() throws Exception {
            var ids = new ArrayList<String>();
            var said = new ArrayList<String>();
            for (var version : List.of("workflow-1", "workflow-2", "workflow-1", "workflow-1")) {
                ids.add("row-" + ids.size());
                var scene = Scene.of(folder, ids.toArray(String[]::new));
                scene.answer = (_, _) -> new Response.Ran(run("run"), RunStatus.SUCCEEDED, outputs("{}"), "",
                        version, Usage.NONE);
                scene.play();
                said.add(String.join("", scene.said).replaceFirst("(?s).* from (\\S+) to (\\S+)\\. .*", "$1 $2"));
            }

            assertEquals(List.of("", "workflow-1 workflow-2", "workflow-2 workflow-1", ""), said);
        }

        @Test
        void theLogExplainsEveryAttempt() throws Exception {
            Files.writeString(folder.resolve("results.jsonl.log"), "{\"event\":\"ses");
            var scene = new Scene(folder, "id,text\nstreamed,x\nfailing,x\nbusy,x\ncut,x\nlost,x\nhuman,x\nlater,x\nlast,x\n");
            scene.mode = Mode.STREAMING;
            var priced = new Response.Ran(run("run-1"), RunStatus.SUCCEEDED, outputs("{}"), "",
                    "workflow-1", new Usage(1.25, 120, 3, Optional.of(new BigDecimal("0.0018")), "USD"));
            scene.backoff = new Backoff(Duration.ZERO, Duration.ZERO, 1);
            var answers = Answer.byRow(Map.of("streamed", List.of(priced),
                    "failing", List.of(failed("Rate Limit Error"), failed("no such city")),
                    "busy", List.of(THROTTLED), "cut", List.of(cut(Symptom.CUT, run("run-4"))),
                    "lost", List.of(cut(Symptom.CUT)),
                    "human", List.of(ran("run-6", RunStatus.PAUSED, ""))));
            scene.answer = (attempt, listener) -> {
                if (attempt.row().id().equals("last")) return scene.untilStopped(run("run-7"), listener);
                if (attempt.row().id().equals("streamed")) listener.accept(new StreamEvent.Began(run("run-1")));
                if (attempt.row().id().equals("human")) scene.world.pass(seconds(2));
                if (attempt.row().id().equals("later")) return scene.streamed("run-9", seconds(5), succeeded("run-9"))
                        .to(attempt, listener);
                return answers.to(attempt, listener);
            };
            scene.found = unresolved -> switch (unresolved.attempt().row().id()) {
                case "lost" -> ABSENT;
                case "failing" -> ended(failed("Rate Limit Error"));
                default -> ended(succeeded("run-4"));
            };
            scene.settle = Duration.ZERO;
            scene.interruptAfter(seconds(10));
            scene.play();
            scene.answer = answers;
            scene.found = unresolved -> unresolved.is(Purpose.LATE) ? ended(succeeded("run-5"))
                    : new LookUpResult.Running(run("run-6"), RunStatus.PAUSED, Optional.empty(), Duration.ZERO);

            scene.play();

            var log = Files.readString(scene.file(".log"));
            Golden.check("log.txt", log.replaceAll("\"t\":\"[^\"]*\"", "\"t\":\"TIME\"")
                    .replaceAll("difyexec-[0-9a-f]{16}-", "difyexec-RANDOM-")
                    .replaceAll("\"process\":\\{[^}]*}", "\"process\":{PROCESS}"));
            assertFalse(log.contains("\"x\""), "the log holds no inputs");
        }
    }
}

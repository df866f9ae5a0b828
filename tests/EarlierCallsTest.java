package difyexec;

import org.junit.jupiter.api.*;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.Given.*;
import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.*;

/// Unresolved attempts of earlier calls, and what the next call does with them.
final class EarlierCallsTest {
    @Nested
    class WhatEarlierCallsLeft {
        @TempDir Path folder;

        @Test
        void runsLeftRunningAreLookedUpAtTheNextStart() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.interruptAfter(seconds(1));
            scene.answer = (_, _) -> {
                scene.world.pass(seconds(90)); // a blocking run has no task to stop
                return succeeded("run-7");
            };
            var stop = scene.play().orElseThrow();
            assertEquals(Exit.INTERRUPTED, stop.exit());
            assertTrue(scene.world.passed().compareTo(seconds(25)) < 0, scene.world.passed().toString());
            assertEquals(List.of(), scene.outcomes("a"));
            var user = scene.sent.getFirst().user();
            var next = new Scene(folder, "id\na\nb\n");
            next.found = _ -> ended(succeeded("run-7"));

            next.play();

            assertEquals(user, next.looked.getFirst().attempt().user());
            assertEquals(List.of("b"), next.ids());
            assertEquals(Set.of("a", "b"), Set.copyOf(next.resultIds()));
        }

        @Test
        void aStoppedRunWithAnUnseenEndRunsAgainAtTheNextStart() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.mode = Mode.STREAMING;
            scene.interruptAfter(seconds(1));
            scene.answer = (_, listener) -> {
                listener.accept(new StreamEvent.Began(run("run-7")));
                scene.world.pass(seconds(3600));
                throw new AssertionError("nobody waits for so long");
            };
            scene.play();
            assertEquals(List.of("task-of-run-7"), scene.stopped);
            assertEquals(List.of(), scene.outcomes("a"));
            var next = Scene.of(folder, "a");
            next.answer = Answer.inTurn(succeeded("run-8"));
            next.found = _ -> ended(ran("run-7", Response.RunStatus.STOPPED, "Aborted: User requested stop"));

            next.play();

            assertEquals("run-7", next.looked.getFirst().run().orElseThrow().id());
            assertEquals(List.of("interrupted", "succeeded"), next.outcomes("a"));
            assertEquals(List.of("run-8"), next.resultRuns());
        }

        @Test
        void anAttemptLeftOpenIsLookedUpBeforeItsRowMayRun() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.crash(1);
            scene.found = _ -> ended(succeeded("run-7"));

            scene.play();

            assertEquals(List.of("a"), scene.looked.stream().map(unresolved -> unresolved.attempt().row().id()).toList());
            assertEquals(List.of("b"), scene.ids());
            assertEquals(Set.of("run-7", "run-b"), Set.copyOf(scene.resultRuns()));
        }

        /// Sent by a machine whose clock was ahead, or still is.
        @ParameterizedTest
        @EnumSource(names = {"RUNNING", "ABSENT"})
        void aCallWithAClockFarAheadDoesNotDelayLaterCalls(Left left) throws Exception {
            var scene = Scene.of(folder, "a");
            scene.crash(1);
            var log = scene.file(".log");
            Files.writeString(log, Files.readString(log).replace("\"t\":\"2026", "\"t\":\"2027"));
            scene.found = _ -> left == Left.ABSENT ? new LookUpResult.Absent()
                    : new LookUpResult.Running(run("run-7"), Response.RunStatus.RUNNING, Optional.of(seconds(30)),
                            Duration.ZERO);

            scene.play();

            assertEquals(left == Left.ABSENT ? List.of("not_started", "succeeded") : List.of("unknown"),
                    scene.outcomes("a"));
            assertTrue(scene.world.passed().compareTo(seconds(400)) < 0, scene.world.passed().toString());
        }

        private enum Left {
            RUNNING, ABSENT
        }

        @Test
        void aRunIdSeenBeforeACrashIsLookedUp() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.mode = Mode.STREAMING;
            scene.answer = scene.streamed("run-7", seconds(1), succeeded("run-7"));
            scene.crash(1);
            scene.found = _ -> ended(succeeded("run-7"));

            scene.play();

            assertEquals(Optional.of(run("run-7")), scene.looked.getFirst().run());
            assertEquals(List.of(), scene.ids());
            assertEquals(List.of("a"), scene.resultIds());
        }

        @Test
        void aRefusalInAStreamCutOffByACrashIsFoundAtTheNextStart() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.mode = Mode.STREAMING;
            scene.server = "1.16.0";
            var madeUp = new RunRef("one", "one");
            scene.answer = (_, listener) -> {
                listener.accept(new StreamEvent.Began(madeUp));
                scene.world.pass(seconds(1));
                return new Response.Ran(madeUp, Response.RunStatus.FAILED, outputs("{}"),
                        "x is required in input form", "", Usage.NONE);
            };
            scene.crash(1);

            scene.play();

            assertEquals(Optional.of(madeUp), scene.looked.getFirst().run());
            assertEquals(List.of("not_started", "failed"), scene.outcomes("a"));
            assertTrue(scene.world.passed().compareTo(seconds(30)) >= 0, scene.world.passed().toString());
            assertFalse(scene.log("end").getLast().has("run"), "a refused row has no run");
        }

        @Test
        void aRowRefusedInAStreamIsSentOnceEvenIfFailedRunsAreAlwaysRetried() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.mode = Mode.STREAMING;
            scene.server = "1.16.0";
            scene.failedRuns = Judge.RetryRuns.ALWAYS;
            scene.answer = Answer.inTurn(new Response.Ran(new RunRef("one", "one"), Response.RunStatus.FAILED,
                    outputs("{}"), "x is required in input form", "", Usage.NONE));

            scene.play();

            assertEquals(List.of("failed"), scene.outcomes("a"));
            assertEquals("x is required in input form", scene.error("a"));
            assertFalse(scene.log("end").getLast().has("run"), "a refused row has no run");
        }

        @Test
        void rowsLeftUnresolvedByTheFirstOfThreeServersAreNotSentAgain() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.mode = Mode.STREAMING;
            scene.server = "1.9.2";
            scene.crash(1);
            for (var upgrade : List.of("1.14.2", "1.16.0")) {
                scene.server = upgrade;
                scene.play();
            }

            assertEquals(List.of("unknown", "unknown"), scene.outcomes("a"));
            assertEquals(List.of(), scene.ids());
        }

        @Test
        void rowsOfLaterServersAreNotUnknownBecauseOfTheFirstOfThree() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c");
            scene.mode = Mode.STREAMING;
            scene.server = "1.9.2";
            scene.selection = Batch.Selection.named(List.of("a"), false);
            scene.crash(1);
            scene.server = "1.14.2";
            scene.selection = Batch.Selection.named(List.of("b"), false);
            scene.crash(1);
            scene.server = "1.16.0";
            scene.selection = Batch.Selection.PENDING;
            scene.world.startAt(scene.world.now().plusSeconds(5));

            scene.play();

            assertEquals(List.of("unknown"), scene.outcomes("a"));
            assertEquals(List.of("not_started", "succeeded"), scene.outcomes("b"));
        }

        @ParameterizedTest
        @EnumSource(value = Mode.class, names = {"BLOCKING", "STREAMING"})
        void aBatchContinuesAfterAServerUpgradeWithoutPayingTwice(Mode mode) throws Exception {
            var scene = Scene.of(folder, "succeeded", "running", "lost", "fresh");
            scene.mode = mode;
            scene.slots = 3;
            scene.server = "1.14.2";
            scene.crash(3);
            var upgraded = scene.world.now().plusSeconds(5);
            scene.world.startAt(upgraded);
            scene.server = "1.16.0";
            scene.found = unresolved -> switch (unresolved.attempt().row().id()) {
                case "succeeded" -> ended(succeeded("run-of-1.14"));
                case "running" -> scene.world.now().isBefore(upgraded.plusSeconds(60)) ? running("run-of-1.14-too")
                        : ended(succeeded("run-of-1.14-too"));
                default -> ABSENT;
            };

            assertEquals(Optional.empty(), scene.play());

            assertEquals(List.of("fresh", "lost"), scene.ids());
            assertFalse(scene.sent.getLast().at().isBefore(upgraded.plusSeconds(30)),
                    "lost was sent again before --settle had passed");
            assertEquals(Set.of("run-of-1.14", "run-of-1.14-too", "run-lost", "run-fresh"),
                    Set.copyOf(scene.resultRuns()));
        }

        @Test
        void earlierRetriesAreReportedAndAKillDoesNotCountAsOne() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.backoff = new Backoff(seconds(1), seconds(1), 2);
            scene.answer = Answer.inTurn(failed("Rate Limit Error"), succeeded("run-7"), failed("Rate Limit Error"),
                    succeeded("run-9"));
            scene.crash(2);
            scene.world.in(seconds(60), () -> {});

            scene.play();

            assertEquals(List.of("again", "not_started", "again", "succeeded"), scene.outcomes("a"));
            assertEquals(2, scene.results().getFirst().path("retry_count").asInt());
        }

        @Test
        void anAttemptIsRecordedOnceAsNotStartedHoweverOftenItIsLookedUp() throws Exception {
            Scene.of(folder, "a").crash(1);
            for (int start = 1; start <= 3; start++) {
                var scene = Scene.of(folder, "a");
                scene.world.startAt(NOON.plusSeconds(3600));
                scene.found = _ -> {
                    scene.engine.interrupt("INT"); // before the row is sent again
                    return ABSENT;
                };

                scene.play();

                assertEquals(1, scene.looked.size());
                assertEquals(List.of("not_started"), scene.outcomes("a"));
            }
        }

        @ParameterizedTest
        @ValueSource(strings = {"run-7", ""})
        void aRowThatChangedDuringItsRunGetsTheResultWithTheInputsThatWereSent(String run) throws Exception {
            new Scene(folder, "id,text\na,old\n").crash(1);
            var next = new Scene(folder, "id,text\na,new\n");
            next.app = run.isEmpty() ? AppKind.CHATFLOW : AppKind.WORKFLOW;
            next.found = _ -> new LookUpResult.Ended(succeeded(run), Map.of("text", "old"));

            next.play();

            assertEquals(List.of("succeeded"), next.outcomes("a"));
            assertEquals(List.of(), next.ids());
            assertEquals("old", next.results().getFirst().at("/inputs/text").asText());
            assertTrue(next.said.getFirst().contains("--rerun-changed"), next.said.toString());
            try (var batch = next.open()) {
                assertTrue(batch.batch().history().changed().anyMatch(row -> row == 0), "the row does not count as changed");
            }
        }

        @Test
        void aRowThatChangedDuringItsRunIsUnknownIfNothingShowsWhatWasSent() throws Exception {
            new Scene(folder, "id,text\na,old\n").crash(1);
            var next = new Scene(folder, "id,text\na,new\n");
            next.found = _ -> new LookUpResult.Ended(succeeded("run-7"), Map.of());

            next.play();

            assertEquals(List.of("unknown"), next.outcomes("a"));
            assertEquals(List.of(), next.ids());
        }

        @Test
        void aRunOfAnEarlierStartIsWaitedForWithinTheTimeLimit() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.timeout = Duration.ofHours(1);
            scene.answer = (_, _) -> {
                scene.world.pass(seconds(600));
                return succeeded("run-7");
            };
            scene.crash(1);
            scene.found = _ -> scene.looked.size() < 4 ? running("run-7") : ended(succeeded("run-7"));

            scene.play();

            assertEquals(List.of("succeeded"), scene.outcomes("a"));
        }

        @Test
        void anOpenAttemptOfARowThatLeftTheFileDoesNotMatter() throws Exception {
            var scene = Scene.of(folder, "gone", "b");
            scene.crash(1);
            var next = new Scene(folder, "id\nb\n");

            var stop = next.play();

            assertEquals(Optional.empty(), stop);
            assertEquals(List.of("b"), next.resultIds());
        }
    }
}

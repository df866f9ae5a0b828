package difyexec;

import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.Given.*;
import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.*;

/// Unresolved attempts of earlier sessions, and what the next session does with them.
final class EarlierCallsTest {
    @Nested
    class WhatEarlierCallsLeft extends Story.Sessions {
        static final List<Story> STORIES = Story.of("""
                runs left running are looked up at the next start
                  given   rows a b, interrupt 1
                  answers a: 90s succeeded run-7
                  then    stop INTERRUPTED, passed 0..25, a none
                  finds   succeeded run-7
                  then    looked 1, sent b, done 2

                a stopped run with an unseen end runs again at the next start
                  given   STREAMING, interrupt 1
                  answers a: began run-7 3600s silent, succeeded run-8
                  then    stop INTERRUPTED, stopped task-of-run-7, a none
                  finds   stopped run-7
                  then    known run-7 run-7, a interrupted succeeded, runs run-8

                an attempt left open is looked up before its row may run
                  given   rows a b, crash 1
                  finds   succeeded run-7
                  then    looked 1, sent b, runs run-7 run-b

                a run id seen before a crash is looked up
                  given   STREAMING
                  answers a: began run-7 1s succeeded run-7
                  given   crash 1
                  finds   succeeded run-7
                  then    known run-7, sent none, results a

                a row refused in a stream is sent once even if failed runs are always retried
                  given   STREAMING, server 1.16.0, always
                  answers a: madeUp x is required in input form
                  then    a failed, error x is required in input form, ended none

                rows left unresolved by the first of three servers are not sent again
                  given   STREAMING, server 1.9.2, crash 1, server 1.14.2
                  then    sent none, a unknown
                  given   server 1.16.0
                  then    sent none, a unknown unknown

                rows of later servers are not unknown because of the first of three
                  given   rows a b c, STREAMING, server 1.9.2, named a, crash 1
                  given   server 1.14.2, named b, crash 1
                  given   server 1.16.0, pending, clock 5
                  then    a unknown, b not_started succeeded

                earlier retries are reported, and a kill does not count as one
                  given   backoff 1 1 2
                  answers a: failed Rate Limit Error, succeeded run-7, failed Rate Limit Error, succeeded run-9
                  given   crash 2
                  then    a again not_started again succeeded, retries 2

                a run of an earlier start is waited for within the time limit
                  given   timeout 3600
                  answers a: 600s succeeded run-7
                  given   crash 1
                  finds   running run-7, running run-7, running run-7, succeeded run-7
                  then    a succeeded

                an open attempt of a row that left the file does not matter
                  given   rows gone b, crash 1, rows b
                  then    results b
                """);

        @Test
        void aLateRunGivesItsRowTheResultThoughTheRowIsNotSentAgain() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = Answer.inTurn(cut(Symptom.NO_ANSWER), failed("not seen"));
            scene.crash(2);
            scene.found = unresolved -> ended(unresolved.is(Purpose.LATE) ? succeeded("run-1")
                    : failed("the node failed"));

            scene.play();

            assertEquals(List.of(), scene.ids());
            assertEquals(List.of("run-1"), scene.resultRuns());
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

    }
}

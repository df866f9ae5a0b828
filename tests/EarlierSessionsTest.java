package difyexec;

import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.Given.*;
import static org.junit.jupiter.api.Assertions.*;

/// Unresolved attempts of earlier sessions, and what the next session does with them.
final class EarlierSessionsTest {
    @Nested
    class EarlierSessions extends Story.Sessions {
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

                a stopped run without an id is not looked up after its row is sent again
                  given   CHATFLOW, STREAMING, interrupt 1
                  answers a: began run-7 3600s silent, succeeded run-8
                  then    stop INTERRUPTED, a none
                  finds   stopped
                  then    looked 2, a interrupted succeeded, runs run-8

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
                  given   settle 30, rows a b c, STREAMING, server 1.9.2, named a, crash 1
                  given   server 1.14.2, named b, crash 1
                  given   server 1.16.0, pending, clock 5
                  answers each: began own succeeded own
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

                lost results are looked up before a limit on tokens lets new rows start
                  given   rows a b
                  then    results a b
                  given   lose-results, rows a b c d, tokens 30, looks-take 5
                  finds   succeeded own
                  then    stop STOPPED, hint max-tokens, sent c, results a b c

                rows start after lost results that Dify no longer has
                  given   rows a b
                  then    results a b
                  given   lose-results, rows a b c d, tokens 41, looks-take 5
                  finds   a: succeeded own; b: absent
                  then    b succeeded unknown, sent c d, start 0 5..6

                lost results do not delay new rows without a limit
                  given   rows a b
                  then    results a b
                  given   lose-results, rows a b c, looks-take 5
                  finds   succeeded own
                  then    sent c, start 0 0..1

                results that were lost once make no later attempt doubtful
                  given   rows a b
                  then    results a b
                  given   lose-results
                  finds   absent
                  then    a succeeded unknown, b succeeded unknown
                  given   rows a b c, crash 1
                  finds   absent
                  then    c not_started succeeded

                an attempt older than a week whose run is not found is unknown
                  given   crash 1, clock 604801
                  then    sent none, a unknown

                an attempt of the last week whose run is not found is sent again
                  given   crash 1, clock 604000
                  then    sent a, a not_started succeeded

                a blocking response that was too large shows that its row had a run
                  answers a: tooLarge
                  then    a unknown
                  given   clock 3600
                  then    sent none, a unknown unknown

                a run that a killed session saw is not started again when Dify has deleted it
                  answers a: cut
                  finds   running run-7, dies
                  then    dies
                  given   clock 3600
                  finds   absent
                  then    sent none, a unknown

                a stream is sent again if the log shows that a later one has started long ago
                  given   rows 1 2, STREAMING
                  answers 1: 2s cut; 2: 2s began run-2 succeeded run-2
                  then    1 unknown, sent 1 2, passed 300..302, settles 1204
                  given   clock 1100
                  then    1 unknown unknown, sent none
                  given   clock 1300
                  then    1 unknown unknown not_started succeeded, sent 1, passed 0..5

                an earlier session counts for a stream that a killed session left
                  given   rows 1 2, STREAMING
                  answers 1: 2s cut; 2: 2s began run-2 1s dies
                  then    dies
                  given   clock 1300
                  finds   2: succeeded run-2; else: absent
                  then    1 not_started succeeded, sent 1, passed 0..5

                a stream that was answered with 503 is sent again without a later stream
                  given   STREAMING
                  answers a: http 503
                  then    sent a a, a not_started succeeded, passed 30..60

                a gateway that answers a stream later does not know what becomes of its job
                  given   rows 1 2, STREAMING
                  answers 1: 2s gateway 504; 2: 2s began run-2 40s succeeded run-2
                  then    1 unknown, sent 1 2, passed 300..302, settles 1204
                  given   clock 1100
                  then    1 unknown unknown, sent none
                  given   clock 1300
                  then    1 unknown unknown not_started succeeded, sent 1, passed 0..5

                a gateway that says with 503 that it has waited long enough does not know it either
                  given   STREAMING
                  answers a: 20s gateway 503
                  then    sent a, a unknown, passed 300..302

                a stream that was answered with 503 is sent again in a later session
                  given   STREAMING, interrupt 5
                  answers a: http 503
                  then    stop INTERRUPTED, sent a
                  given   clock 3600
                  then    sent a, a not_started succeeded, passed 30..60

                a stream that was answered with 502 is sent again after a later stream and half a minute
                  given   rows 1 2, STREAMING
                  answers 1: 2s http 502; 2: 2s began run-2 40s succeeded run-2
                  then    1 not_started succeeded, sent 1 2 1, start 2 34..60

                a stream that was answered with 500 waits for a later stream in a later session
                  given   rows 1, STREAMING, interrupt 5
                  answers 1: broken
                  then    stop INTERRUPTED, sent 1
                  given   rows 1 2, clock 3600
                  answers 2: 1s began run-2 40s succeeded run-2
                  then    1 not_started succeeded, sent 2 1, start 1 3630..3660

                an open attempt of a row that left the file does not matter
                  given   rows gone b, crash 1, rows b
                  then    results b

                a late run gives its row the result though the row is not sent again
                  answers a: cut, failed not seen
                  given   crash 2
                  finds   LATE: succeeded run-1; else: failed the node failed
                  then    sent none, runs run-1

                a refusal in a stream cut off by a crash is found at the next start
                  given   STREAMING, server 1.16.0
                  answers each: beganMadeUp run-7 1s madeUp x is required in input form
                  given   crash 1
                  then    run run-7 run-7, a not_started failed, ended none, passed 30..60

                a batch continues after a server upgrade without paying twice
                  given   rows done running lost fresh, slots 3, server 1.14.2, crash 3, server 1.16.0, clock 5
                  finds   done: succeeded run-7; running: running run-8, running run-8, succeeded run-8; else: absent
                  then    sent fresh lost, start 1 30..60, runs run-7 run-fresh run-8 run-lost

                a batch of streams continues after a server upgrade without paying twice
                  given   settle 30, STREAMING, rows done running lost fresh, slots 3, server 1.14.2, crash 3
                  given   server 1.16.0, clock 5
                  answers each: began own succeeded own
                  finds   done: succeeded run-7; running: running run-8, running run-8, succeeded run-8; else: absent
                  then    sent fresh lost, start 1 30..60, runs run-7 run-fresh run-8 run-lost
                """);

        /// Sent by a machine whose clock was ahead, or still is.
        @ParameterizedTest
        @CsvSource({"absent, not_started succeeded", "running run-7 since -30, unknown"})
        void doNotDelayLaterSessionsIfTheirClockWasFarAhead(String found, String outcomes) throws Exception {
            var scene = Scene.of(folder, "a");
            scene.crash(1);
            var log = scene.file(".log");
            Files.writeString(log, Files.readString(log).replace("\"t\":\"2026", "\"t\":\"2027"));
            scene.found = _ -> Story.found(scene, found);

            scene.play();

            assertEquals(outcomes, String.join(" ", scene.outcomes("a")));
            assertTrue(scene.world.passed().compareTo(seconds(400)) < 0, scene.world.passed().toString());
        }

        @Test
        void anAttemptIsRecordedAsNotStartedOnlyOnceInSeveralSessions() throws Exception {
            Scene.of(folder, "a").crash(1);
            for (int start = 1; start <= 3; start++) {
                var scene = Scene.of(folder, "a");
                scene.world.startAt(NOON.plusSeconds(3600));
                scene.settle = Duration.ZERO;
                scene.found = _ -> {
                    scene.engine.interrupt("INT"); // before the row is sent again
                    return ABSENT;
                };

                scene.play();

                assertEquals(1, scene.looked.size());
                assertEquals(List.of("not_started"), scene.outcomes("a"));
            }
        }

        /// Up to 0.5.0, the log contains each status of a server error.
        @ParameterizedTest
        @CsvSource({"1, not_started", "20, unknown"})
        void aServerErrorOfAnEarlierVersionCountsOnlyIfItCameAtOnce(int second, String outcome) throws Exception {
            var scene = Scene.of(folder, "a");
            new PastBatch(1, 0, 0).session("mode", "streaming")
                    .event("attempt", "id", "a", "n", 0, "user", "user-a-1", "mode", "streaming")
                    .event("response", "t", NOON.plusSeconds(second), "id", "a", "user", "user-a-1", "http", 503)
                    .save(scene.output);
            scene.mode = Mode.STREAMING;
            scene.world.startAt(NOON.plusSeconds(3600));

            scene.play();

            assertEquals(outcome, scene.outcomes("a").getFirst());
        }

        /// The first one's run was late, and its last look-up broke after the second one had been given up, too.
        @Test
        void everyAttemptWithoutARunIsLookedUpBeforeTheRowIsSentAgain() throws Exception {
            var scene = Scene.of(folder, "a");
            var gone = List.of("not_started", "not_started", "unknown");
            new PastBatch(1, 0, 0).attempt("a").end("a", gone.get(0), "run", "").attempt("a")
                    .end("a", gone.get(1), "run", "").end("a", gone.get(2), "run", "", "user", "user-a-1")
                    .save(scene.output);
            scene.world.startAt(NOON.plusSeconds(3600));
            scene.found = lookUp -> lookUp.attempt().user().equals("user-a-1") ? ended(succeeded("run-7")) : ABSENT;

            scene.play();

            assertEquals(List.of(), scene.ids());
            assertEquals(List.of("run-7"), Scene.texts("workflow_run_id", scene.results()));
        }

        @Test
        void aFailedLateRunDoesNotKeepItsRowFromBeingSentAgain() throws Exception {
            var scene = Scene.of(folder, "a");
            new PastBatch(1, 0, 0).attempt("a").end("a", "not_started", "run", "").attempt("a")
                    .end("a", "not_started", "run", "").end("a", "unknown", "run", "", "user", "user-a-1")
                    .save(scene.output);
            scene.world.startAt(NOON.plusSeconds(3600));
            scene.found = lookUp -> {
                if (scene.looked.size() > 100) scene.engine.interrupt("INT");
                return lookUp.attempt().user().equals("user-a-1") ? ended(failed("the node failed")) : ABSENT;
            };

            scene.play();

            assertEquals(List.of("a"), scene.ids());
        }

        /// Plays a session after the row has changed during its run. A look-up finds the run with these inputs.
        private Scene changedDuringItsRun(String run, Map<String, String> inputs) throws Exception {
            new Scene(folder, "id,text\na,old\n").crash(1);
            var next = new Scene(folder, "id,text\na,new\n");
            next.app = run.isEmpty() ? AppKind.CHATFLOW : AppKind.WORKFLOW;
            next.found = _ -> new LookUpResult.Ended(succeeded(run), inputs, Optional.empty());
            next.play();
            assertEquals(List.of(), next.ids());
            return next;
        }

        @ParameterizedTest
        @ValueSource(strings = {"run-7", ""})
        void theResultOfARowChangedDuringItsRunHasTheInputsSent(String run) throws Exception {
            var next = changedDuringItsRun(run, Map.of("text", "old"));

            assertEquals(List.of("succeeded"), next.outcomes("a"));
            assertEquals("old", next.results().getFirst().at("/inputs/text").asText());
            assertTrue(next.said.getFirst().contains("--rerun-changed"), next.said.toString());
            try (var batch = next.open()) {
                assertTrue(batch.batch.history().changed().anyMatch(row -> row == 0), "the row counts as changed");
            }
        }

        /// Dify 1.9.2 reports neither for a chatflow's run whose response nobody saw.
        @ParameterizedTest
        @ValueSource(doubles = {0, 2.5})
        void theResultHasNoTimesIfDifyReportsNone(double seconds) throws Exception {
            Scene.of(folder, "a", "b").crash(1);
            var next = Scene.of(folder, "a", "b");
            next.app = AppKind.CHATFLOW;
            next.found = _ -> ended(Response.Ran.answered(outputs("{}"), seconds, Response.ChatMessage.NONE));
            next.answer = (_, _) -> {
                next.world.pass(seconds(7));
                return succeeded("run-b");
            };

            next.play();

            var recovered = next.results().getFirst();
            assertEquals("a", recovered.path("id").asText());
            for (var field : List.of("executed_at", "seconds", "elapsed_time"))
                assertEquals(seconds > 0, recovered.has(field), field);
            assertEquals(seconds > 0 ? 2.5 : 7, next.tally.latencies().get("p50"));
            var batch = Batch.peek(BatchFiles.of(next.output), Optional.empty(), true);
            assertEquals(next.tally.latencies(), batch.figures().latencies());
            try (var ends = new LineOffsets.RowEnds(batch)) {
                assertEquals(1, ends.traces(0).size());
            }
        }

        @Test
        void aRowChangedDuringItsRunRunsAgainInTheSameSessionWithRerunChanged() throws Exception {
            new Scene(folder, "id,text\na,old\n").crash(1);
            var next = new Scene(folder, "id,text\na,new\n");
            next.rerunChanged = true;
            next.found = _ -> new LookUpResult.Ended(succeeded("run-7"), Map.of("text", "old"), Optional.empty());

            next.play();

            assertEquals(List.of("a"), next.ids());
            assertEquals(List.of("run-7", "run-a"), next.resultRuns());
            assertEquals(List.of("old", "new"), next.results().stream()
                    .map(result -> result.at("/inputs/text").asText()).toList());
            assertTrue(next.tally.isAllDone());
            assertEquals(1, next.tally.done());
            try (var batch = next.open()) {
                assertEquals(0, batch.batch.history().changed().count());
                assertEquals(1, batch.batch.index().succeeded());
            }
        }

        @Test
        void aRowChangedDuringItsRunIsUnknownIfItsRunHasNoInputs() throws Exception {
            assertEquals(List.of("unknown"), changedDuringItsRun("run-7", Map.of()).outcomes("a"));
        }
    }
}

package difyexec;

import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.DifyExec.Response.RunStatus;
import static difyexec.Given.*;
import static org.junit.jupiter.api.Assertions.*;

/// Unresolved and late runs and interrupts. The engine has scripted responses and a clock moved by hand.
final class LookUpTest {
    @Nested
    class ASessionWithUnresolvedRuns extends Story.Sessions {
        static final List<Story> STORIES = Story.of("""
                the late run of a chat without an answer yet is waited for at a later start
                  given   CHAT
                  answers a: cut, failed no such city
                  finds   LATE: empty; else: absent
                  then    saw unanswered, sent a a
                  finds   empty, empty, answered
                  then    sent none

                a late run that is too large is not absent at a later start
                  answers a: cut, failed no such city
                  finds   LATE: silent unreadable run-7; else: absent
                  then    saw unreadable, sent a a
                  finds   silent unreadable run-7
                  then    sent none

                a run that was shown just after its stream broke is never absent
                  given   AGENT_CHAT, STREAMING, looks-take 5
                  answers a: 33s cut
                  finds   QUIET: empty; else: absent
                  then    sent a, a unknown

                a run that another row has is not accepted from a look-up
                  given   rows a b, slots 2
                  answers a: 2s succeeded run-a; b: 1s succeeded run-a
                  finds   a: succeeded run-a; else: absent
                  then    a unknown, allDone false

                a late page with 403 does not show that no run has started
                  answers a: 20s gateway 403, succeeded run-8
                  finds   succeeded run-7
                  then    sent a, runs run-7

                neither does a late page with 404
                  answers a: 20s gateway 404, succeeded run-8
                  finds   succeeded run-7
                  then    sent a, runs run-7

                nor a late redirection
                  answers a: 20s gateway 302, succeeded run-8
                  finds   succeeded run-7
                  then    sent a, runs run-7

                the time of a stream counts from its first event, also when it is cut
                  given   STREAMING
                  answers a: 20s began run-a 290s cut run-a
                  finds   running run-a
                  then    a unknown, took a 320..321

                a silent stream is not waited for twice
                  given   STREAMING, server unknown
                  answers a: 300s silent
                  then    a unknown, passed 300..301

                the time limit of a run of an earlier session counts from the start of the run
                  given   crash 1, clock 200
                  finds   running run-a since 100
                  then    a unknown, passed 200

                a run that exceeds its time limit is stopped and looked up a little longer
                  given   STREAMING
                  answers a: began run-7 300s overdue run-7
                  finds   running run-7 since 0, running run-7 since 0, stopped run-7
                  then    a failed, error timed out, run run-7, tasks task-of-run-7

                a run that succeeds although it was stopped for its time limit is recovered
                  given   STREAMING
                  answers a: overdue run-7
                  finds   running run-7, stopped run-7, succeeded run-7
                  then    a succeeded, tasks task-of-run-7

                a row whose run was stopped for its time limit is not sent again in a later session
                  given   STREAMING
                  answers a: overdue run-7
                  finds   running run-7, running run-7, dies
                  then    dies, tasks task-of-run-7
                  finds   aborted run-7
                  then    sent none, a failed

                a run the server does not list takes no slot
                  given   rows a b
                  answers a: cut
                  then    sent a b a, start 1 0..5

                a cut run takes a slot until its end is known
                  given   rows a b, looks-take 1
                  answers a: cut
                  finds   running run-7, running run-7, succeeded run-7
                  then    harvest run-7, sent a b, start 1 4..5

                cut runs take half the slots at most
                  given   rows a b c d e f g h, slots 4, looks-take 1
                  answers a: cut run-a; b: cut run-b; c: cut run-c; each: 2s succeeded own
                  finds   running own
                  then    busiest 2, results d e f g h

                look-ups take few of the server's connections
                  given   rows a b c d e f, slots 6, looks-take 1
                  answers each: 1s broken
                  finds   succeeded own
                  then    together 2, done 6

                a run reported as stopped that succeeded is recovered and counted once
                  given   rows a b, tokens 25
                  answers a: stopped run-7
                  finds   stopped run-7, succeeded run-7
                  then    a succeeded

                a quiet stream is looked up and its end taken from the records, while others continue
                  given   rows a b, STREAMING
                  answers a: began run-7 30s quiet run-7 30s quiet run-7 forever
                  finds   running run-7, succeeded run-7
                  then    looked 2, a succeeded, results b a

                a quiet stream that has ended is not looked up
                  given   STREAMING
                  answers a: began run-7 quiet run-7 succeeded run-7
                  then    looked 0, a succeeded

                a quiet stream whose run has stopped on request is interrupted
                  given   STREAMING, looks-take 5, interrupt 33, interrupt 34
                  answers a: began run-7 30s quiet run-7 forever
                  finds   aborted run-7
                  then    stop INTERRUPTED, a interrupted, retry none

                an answer that concerns the batch leaves its rows pending
                  given   rows a b c
                  answers b: unauthorized
                  then    stop STOPPED, hint DIFY_API_KEY, sent a b, b refused, retry none, results a

                a look-up that concerns the batch also stops it
                  answers a: cut
                  finds   silent unauthorized
                  then    stop STOPPED, hint DIFY_API_KEY, retry none, a none
                  finds   succeeded run-7
                  then    sent none, runs run-7

                too many failures stop the batch
                  given   rows a b c d, failures 2 1
                  answers a: failed no; c: failed no
                  then    stop STOPPED, hint --max-failures, retry a c

                an interrupt lets running rows finish and starts no others
                  given   rows a b c, slots 2, interrupt 1
                  answers a: 5s succeeded own; b: 9s succeeded own
                  then    stop INTERRUPTED, sent a b, results a b, passed 9, stopped none, says 2 running rows

                an interrupt says how many rows may finish
                  given   rows a b c, interrupt 1
                  answers each: 5s succeeded own
                  then    stop INTERRUPTED, says 1 running row, says 20 s

                an interrupt stops what still runs after the grace
                  given   rows a b, STREAMING, interrupt 1
                  answers each: stoppable own
                  then    stop INTERRUPTED, stopped task-of-run-a, tasks task-of-run-a, passed 21..24, a interrupted, run run-a

                a rejected key does not prolong a shorter grace period
                  given   rows a b, STREAMING, slots 2, grace 3, interrupt 1
                  answers a: 2s unauthorized; b: began run-7 forever
                  then    stop INTERRUPTED, passed 4..5, b none

                an interrupt waits for a stopped run whose stream does not end, but not for long
                  given   STREAMING, interrupt 1
                  answers a: began run-7 forever
                  then    stop INTERRUPTED, tasks task-of-run-7, passed 24..25, a none

                an interrupt starts no look-up
                  given   rows a b, slots 2, interrupt 1
                  answers a: cut; b: 9s succeeded own
                  then    stop INTERRUPTED, passed 9, looked 2

                a second interrupt stops active runs at once
                  given   STREAMING, interrupt 1, interrupt 2
                  answers a: stoppable own
                  then    stop INTERRUPTED, stopped task-of-run-a, tasks task-of-run-a, passed 0..4

                an interrupt wins over an earlier reason to stop
                  given   rows a b, slots 2, interrupt 1
                  answers a: unauthorized; b: 5s succeeded own
                  then    stop INTERRUPTED, results b

                an interrupt ends a batch that only waits
                  given   interrupt 40, backoff 600 600 3
                  answers a: failed Rate Limit Error
                  then    stop INTERRUPTED, passed 40, retry none

                a run that appears after its row was sent again is reported as late
                  answers a: cut, succeeded run-8
                  finds   LATE: succeeded run-7
                  then    late run-7, says run-7, runs run-8, allDone false

                a made-up failure of a run that was stopped is looked up at the next start
                  given   STREAMING, server 1.16.0, interrupt 1
                  answers a: stoppable run-7 madeUp Workflow stream ended without a terminal event
                  then    stop INTERRUPTED, stopped task-of-run-7
                  finds   succeeded run-7
                  then    a succeeded, runs run-7, sent none

                a failure of a run that was asked to stop counts as an interruption
                  given   STREAMING, interrupt 1
                  answers a: stoppable run-7 failed no such city
                  then    stop INTERRUPTED, stopped task-of-run-7, a interrupted

                a made-up failure of a run that was stopped does not count as one of its row
                  given   STREAMING, server 1.16.0, interrupt 1
                  answers a: stoppable run-7 madeUp Workflow stream ended without a terminal event
                  then    stop INTERRUPTED, stopped task-of-run-7
                  finds   stopped run-7
                  then    a interrupted succeeded, runs run-a, sent a

                one of two late runs of a row is used
                  given   backoff 0 0 2
                  answers a: cut, cut, failed no such city
                  finds   LATE: succeeded run-7, succeeded run-8
                  then    late run-7 run-8, results a, done 1

                a late active run is reported once and waited for
                  answers a: cut, failed 429
                  finds   UNCONFIRMED: failed 429; RESEND: absent, running r-7, running r-7, succeeded r-7
                  then    saw running, sent a a, runs r-7

                a late run is also reported at a later start, once
                  answers a: cut, succeeded run-8
                  then    a not_started succeeded, late none
                  given   rows a b
                  finds   running run-7
                  then    results a b, late run-7
                  then    results a b, late run-7

                a late success is used if the row has not succeeded
                  answers a: cut, failed no such city
                  finds   LATE: succeeded run-7
                  then    runs run-7, retry none

                a run that appears before its row was sent again is not late
                  answers a: cut
                  finds   RESEND: succeeded run-7
                  then    runs run-7, sent a, late none, said 0

                an inconclusive answer only delays the retry of a row
                  answers a: cut, succeeded run-8
                  finds   RESEND: silent http 409, absent
                  then    runs run-8

                a late active run is waited for before its row is sent at a later start
                  answers a: cut, failed no such city
                  finds   LATE: running run-7
                  then    saw running, sent a a
                  finds   running run-7, running run-7, succeeded run-7
                  then    sent none, runs run-7, saw running

                a late run that has failed does not keep its row from being sent
                  answers a: cut, failed no such city
                  finds   LATE: running run-7
                  then    saw running, sent a a
                  finds   RESEND: failed the node failed
                  then    sent a, looked 2, a not_started failed succeeded

                a run found by its id when its row was sent again is not late in this session or a later one
                  answers a: cut run-7
                  finds   running run-7
                  then    a unknown, ended run-7
                  given   resend
                  then    sent a, a unknown resent succeeded
                  finds   succeeded run-7
                  then    sent none, a unknown resent succeeded, late none

                a run found by its user when its row was sent again is not late in this session or a later one
                  answers a: cut
                  finds   running run-7
                  then    a unknown, ended run-7
                  given   resend
                  then    sent a, a unknown resent succeeded
                  finds   succeeded run-7
                  then    sent none, a unknown resent succeeded, late none

                a run that became known just before its row was sent again is not late either
                  given   crash 1, clock 3600, resend
                  finds   running run-7
                  then    a resent succeeded
                  then    sent none, late none

                a known run does not delay further attempts of its row
                  answers a: cut, failed Rate Limit Error, succeeded run-9
                  finds   UNCONFIRMED: failed Rate Limit Error; else: running run-7
                  then    a unknown, ended run-7
                  given   resend, clock 7200
                  then    a unknown resent again succeeded, passed 0..10

                a run that was unknown when its row was resent on request is late
                  given   server 1.9.2, STREAMING
                  answers a: cut, succeeded run-8
                  then    a unknown
                  given   resend
                  finds   LATE: succeeded run-7
                  then    a unknown resent succeeded, late run-7

                a paused row is looked up and not sent again unless asked for
                  answers a: paused run-7, succeeded run-8
                  finds   paused run-7
                  then    retry a
                  then    a paused paused, looked 1, sent none
                  given   resend
                  then    a paused paused resent succeeded, retry none

                a paused row is recovered after its form is answered
                  answers a: paused run-7
                  then    a paused
                  finds   succeeded run-7
                  then    a paused succeeded, results a

                a paused row fails if Dify ended its run after the form
                  given   server 1.16.0, always
                  answers a: paused run-7
                  then    a paused
                  finds   closed run-7
                  then    a paused failed, error form

                an unknown row is sent again when its id is named
                  given   server 1.9.2, STREAMING
                  answers a: cut, succeeded run-8
                  then    a unknown
                  given   named a
                  then    a unknown resent succeeded

                the wait separates the end of one request from the start of the next
                  given   rows a b c, wait 7
                  answers each: 2s succeeded own
                  then    at 0 9 18

                after a proxy cut a run, the batch continues with streams
                  given   rows a b, AUTO
                  answers a: http 504
                  finds   succeeded run-a
                  then    modes BLOCKING STREAMING, says streaming mode
                  given   rows a b c
                  then    sent c, modes STREAMING

                a session waits for its last look-ups
                  given   looks-take 7
                  answers a: cut, succeeded run-8
                  finds   LATE: succeeded run-7; else: absent
                  then    a not_started succeeded, late run-7

                a run that a list has shown is never absent
                  answers a: cut
                  finds   listed run-7, absent
                  then    sent a, a unknown, passed 300..320, error no longer has run run-7

                a run that a list has shown is never absent in a later session
                  given   interrupt 2
                  answers a: 1s cut
                  finds   listed run-7
                  then    stop INTERRUPTED, sent a
                  given   clock 1000
                  finds   absent
                  then    sent none, a unknown, known run-7

                a conversation that a list has shown is never absent
                  given   CHAT
                  answers a: cut
                  finds   empty, absent
                  then    sent a, a unknown, passed 300..320

                a run that was shown during its stream is never absent
                  given   AGENT_CHAT, STREAMING
                  answers a: 40s cut
                  finds   QUIET: empty; else: absent
                  then    sent a, a unknown

                a listed run is waited for until its record shows its end
                  answers a: cut
                  finds   listed run-7, listed run-7, succeeded run-7
                  then    sent a, runs run-7, passed 0..10

                a listed run of a row that was sent again is reported as late, and its result is taken
                  answers a: cut, failed the node failed
                  finds   LATE: listed run-7; else: absent
                  then    sent a a, a not_started failed, late run-7
                  finds   RESEND: succeeded run-7
                  then    sent none, runs run-7

                a listed run of a row that was sent again is never absent
                  answers a: cut, failed the node failed
                  finds   LATE: listed run-7; else: absent
                  then    sent a a, a not_started failed, late run-7
                  finds   absent
                  then    sent none, passed 300..320

                a look-up that always breaks uses up its time while the server answers others
                  answers a: cut run-a
                  finds   silent cut
                  then    a unknown, passed 300..345

                a look-up that always breaks ends a session with a short time limit, too
                  given   timeout 5
                  answers a: cut run-a
                  finds   silent cut
                  then    a unknown, passed 5..30

                a look-up before a row is sent again uses up its time as well
                  answers a: cut, succeeded run-8
                  finds   RESEND: silent cut; else: absent
                  then    a not_started unknown, sent a, passed 330..380

                the settle time of a blocking run counts from its first answered look-up
                  answers a: 40s cut
                  finds   silent cut, absent, succeeded run-a
                  then    sent a, a succeeded

                a request that waited in front of a full server is not sent again
                  given   timeout 60
                  answers a: 60s overdue
                  finds   absent, succeeded run-a
                  then    sent a, a succeeded

                an ended run whose message has no answer yet is looked up again
                  given   CHATFLOW, server 1.16.1
                  answers a: cut
                  finds   unanswered, unanswered, succeeded run-a
                  then    a succeeded, passed 2..5

                an ended run whose message never gets an answer is unknown at its deadline
                  given   CHATFLOW, server 1.16.1
                  answers a: cut
                  finds   unanswered
                  then    a unknown, passed 300..301

                a failed chatflow run that appears and then vanishes is unknown
                  given   CHATFLOW, server 1.16.1
                  answers a: boom
                  finds   running run-7, absent
                  then    a unknown, sent a

                a form whose time ends during the stream is recorded
                  given   STREAMING
                  answers a: began run-7 expired Sign succeeded run-7
                  then    nodes Sign, a succeeded

                a partial success is kept
                  answers a: partial run-a
                  then    a partial, done 1, results a, retry none
                """);

        /// Twenty rows are recovered after a crash. A download takes far longer than a look-up.
        @Test
        void filesOfRecoveredRowsAreNotAllDownloadedAtOnce() throws Exception {
            var scene = Scene.numbered(folder, 20);
            scene.slots = 20;
            scene.crash(20);
            scene.slots = 2;
            scene.found = question -> ended(succeeded("run-" + question.attempt().row().id()));
            var most = scene.downloads(seconds(60));

            scene.play();

            assertEquals(20, scene.resultIds().size());
            assertTrue(most.get() <= 4, () -> most + " downloads at once with -c 2");
        }

        @Test
        void isNotDelayedByRunsLeftBehindByAKilledServer() throws Exception {
            var scene = Scene.numbered(folder, 60);
            scene.slots = 5;
            scene.timeout = seconds(40);
            Instant killed = NOON.plusSeconds(3), back = killed.plusSeconds(2);
            var away = new Response.NotSent("connection refused", "");
            scene.answer = (attempt, _) -> {
                boolean isOfTheKilled = attempt.sequence() <= 5;
                if (isOfTheKilled) scene.world.pass(seconds(3));
                else if (scene.world.now().isBefore(back)) return away;
                else scene.world.pass(Duration.ofMillis(200));
                return isOfTheKilled ? cut(Symptom.NO_RESPONSE) : succeeded("run-" + attempt.row().id());
            };
            scene.found = question -> scene.world.now().isBefore(back) ? new LookUpResult.Inconclusive(away)
                    : running("run-" + question.attempt().row().id(), Duration.between(NOON, scene.world.now()));

            assertEquals(Optional.empty(), scene.play());

            assertEquals(55, scene.resultIds().size());
            for (var id : scene.resultIds())
                assertTrue(scene.end(id).isBefore(back.plusSeconds(25)), id + " at " + scene.end(id));
            for (var id : List.of("1", "2", "3", "4", "5")) {
                assertEquals(List.of("unknown"), scene.outcomes(id));
                Story.isIn("40..51", scene.took(id), id);
            }
        }

        /// A success for which the server needed that long.
        private static Response.Ran took(String run, double seconds) {
            return new Response.Ran(run(run), RunStatus.SUCCEEDED, outputs("{}"), "", "workflow-1",
                    new Usage(seconds, 1, Cost.NONE));
        }

        @ParameterizedTest(name = "the slowest run took {0} s: the next begins after {1} s")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                slowest, after
                1,       10
                2,       10
                6,       24
                """)
        void keepsTheOnlySlotForACutRunThatMayStillBeActive(long slowest, long after) throws Exception {
            var scene = Scene.of(folder, "a", "b", "c");
            scene.answer = (attempt, _) -> {
                if (attempt.row().id().equals("b")) return cut(Symptom.NO_RESPONSE);
                scene.world.pass(seconds(slowest));
                return took("run-" + attempt.row().id(), slowest);
            };
            scene.found = _ -> running("run-b");

            scene.play();

            assertEquals(List.of("a", "b", "c"), scene.ids());
            var waited = Duration.between(scene.sent.get(1).at(), scene.sent.get(2).at());
            Story.isIn(after + ".." + (after + 1), waited, "the wait of c");
        }

        @Test
        void sendsFewRequestsWhileLostRunsFillTheServer() throws Exception {
            var scene = Scene.numbered(folder, 1000);
            scene.slots = 5;
            scene.timeout = seconds(60);
            scene.answer = (attempt, _) -> {
                if (attempt.sequence() <= 5) return cut(Symptom.NO_RESPONSE);
                return scene.world.now().isBefore(NOON.plusSeconds(60)) ? THROTTLED
                        : succeeded("run-" + attempt.row().id());
            };
            scene.found = question -> running("run-" + question.attempt().row().id());

            scene.play();

            assertEquals(995, scene.resultIds().size());
            assertTrue(scene.log("throttle").size() < 60, scene.log("throttle").size() + " refusals in a minute");
        }

        /// The run moves from second 100 to 500 and takes 420 seconds in all. Dify shows the move while it lasts.
        @ParameterizedTest
        @EnumSource(names = {"BLOCKING", "STREAMING"})
        void doesNotCountARunsMoveToAnotherWorkerInItsTimeout(Mode mode) throws Exception {
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

        /// 60 streams of two seconds, six at a time, on a server that is down after five seconds. The first run that it
        /// starts when it is back takes a while.
        private final class Restart {
            final Instant gone = NOON.plusSeconds(5), back;
            final Duration firstWait;
            final Answer dying; // the answer for runs that are active when the server goes down
            final Scene scene = Scene.numbered(folder, 60);
            private int fewest = 6;
            private boolean isWarm = false;

            Restart(long away, long firstWait, Answer dying) throws IOException {
                this.back = gone.plusSeconds(away);
                this.firstWait = seconds(firstWait);
                this.dying = dying;
                scene.mode = Mode.STREAMING;
                scene.slots = 6;
                scene.answer = this::run;
                scene.found = question -> isAway() ? new LookUpResult.Inconclusive(new Response.NotSent("refused", ""))
                        : running(question.run().orElseThrow().id());
                scene.watched = _ -> fewest = Math.min(fewest, scene.pace.slots());
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
        void finishesOtherRowsAfterTheServerWasKilledWithItsRuns() throws Exception {
            new Restart(120, 8, (attempt, _) -> cut(Symptom.CUT, run("run-" + attempt.row().id()))).assertDone(6, 3);
        }

        @Test
        void finishesOtherRowsWhileStreamsOfAKilledWorkerTimeOut() throws Exception {
            var clock = new AtomicReference<World>();
            var restart = new Restart(0, 0, (attempt, _) -> {
                clock.get().pass(seconds(295)); // its pings continue
                return cut(Symptom.TIMED_OUT, run("run-" + attempt.row().id()));
            });
            clock.set(restart.scene.world);

            restart.assertDone(6, 3);
        }

        @Test
        void continuesAtFullConcurrencyAfterAGracefulRestart() throws Exception {
            new Restart(10, 2, (attempt, _) -> took("run-" + attempt.row().id(), 2)).assertDone(0, 6);
        }

        @Test
        void looksUpAllAttemptsOfARowBeforeItIsResent() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.answer = Answer.inTurn(cut(Symptom.NO_RESPONSE), cut(Symptom.NO_RESPONSE));
            scene.found = question -> question.purpose() == Purpose.RESEND && scene.sent.size() == 2
                    && question.attempt().user().equals(scene.sent.getLast().user())
                    ? ended(succeeded("run-7")) : ABSENT;

            scene.play();

            assertEquals(2, scene.sent.size());
            assertEquals(List.of("run-7"), scene.resultRuns());
            String first = scene.sent.getFirst().user(), second = scene.sent.getLast().user();
            assertEquals(List.of(first, first, second), scene.looked.stream()
                    .filter(look -> look.purpose() == Purpose.RESEND).map(look -> look.attempt().user()).toList());
        }

        @Test
        void usesALateRunOfAnEarlierSessionIfItsRowFails() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.crash(1);
            scene.world.startAt(NOON.plusSeconds(3600));
            scene.crash(1); // the row was sent again
            var first = scene.looked.getFirst().attempt().user();
            scene.world.startAt(NOON.plusSeconds(7200));
            scene.answer = Answer.inTurn(failed("no such city"));
            scene.found = question -> question.purpose() == Purpose.LATE && question.attempt().user().equals(first)
                    ? ended(succeeded("run-7")) : ABSENT;

            scene.play();

            assertEquals(List.of("run-7"), scene.resultRuns());
            assertEquals(List.of(), scene.retryIds());
        }

        @Test
        void logsEveryEventOfAnAttemptButNoInputs() throws Exception {
            Files.writeString(folder.resolve("results.jsonl.log"), "{\"event\":\"ses");
            var scene = new Scene(folder,
                    "id,text\nstreamed,x\nfailing,x\nbusy,x\ncut,x\nlost,x\nhuman,x\nlater,x\nlast,x\n");
            scene.mode = Mode.STREAMING;
            var priced = new Response.Ran(run("run-1"), RunStatus.SUCCEEDED, outputs("{}"), "",
                    "workflow-1", new Usage(1.25, 3, new Cost(120, new BigDecimal("0.0018"), "USD")));
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
            scene.found = question -> switch (question.attempt().row().id()) {
                case "lost" -> ABSENT;
                case "failing" -> ended(failed("Rate Limit Error"));
                default -> ended(succeeded("run-4"));
            };
            scene.settle = Duration.ZERO;
            scene.interruptAfter(seconds(10));
            scene.play();
            scene.answer = answers;
            scene.found = question -> question.purpose() == Purpose.LATE ? ended(succeeded("run-5"))
                    : switch (question.attempt().row().id()) {
                        case "failing" -> ended(failed("no such city"));
                        case "last" -> ended(ran("run-7", RunStatus.STOPPED, ""));
                        default -> new LookUpResult.Running(run("run-6"), RunStatus.PAUSED, Optional.empty(),
                                Duration.ZERO);
                    };

            scene.play();

            var log = Files.readString(scene.file(".log"));
            Golden.check("log.txt", log.replaceAll("\"t\":\"[^\"]*\"", "\"t\":\"TIME\"")
                    .replaceAll("difyexec-[0-9a-f]{16}-", "difyexec-RANDOM-").replaceAll("run-failed-\\d+", "run-failed")
                    .replaceAll("\"process\":\\{[^}]*}", "\"process\":{PROCESS}"));
            assertFalse(log.contains("\"x\""), "the log holds no inputs");
        }
    }
}

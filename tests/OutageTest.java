package difyexec;

import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.Given.*;
import static org.junit.jupiter.api.Assertions.*;

/// Queues that do not move, servers that are down and apps that are deleted, in virtual time.
final class OutageTest {
    @Nested
    class AnOutage extends Story.Sessions {
        /// A server whose worker takes streamed runs in turn, but not before a certain time. They take two seconds.
        private static final class QueueOfWorker {
            private final Instant back;
            private final Map<String, Instant> begins = new LinkedHashMap<>(); // by user
            private final Map<String, List<String>> users = new TreeMap<>(); // by row

            QueueOfWorker(Instant back) {
                this.back = back;
            }

            Response stream(World world, Attempt attempt, Consumer<StreamEvent> listener) throws InterruptedException {
                var now = world.now();
                var begin = now.isBefore(back) ? back.plusMillis(100L * begins.size()) : now;
                begins.put(attempt.user(), begin);
                users.computeIfAbsent(attempt.row().id(), _ -> new ArrayList<>()).add(attempt.user());
                var wait = Duration.between(now, begin);
                if (wait.compareTo(seconds(300)) > 0) {
                    world.pass(seconds(300));
                    return cut(Symptom.STREAM_SILENT);
                }
                world.pass(wait);
                listener.accept(new StreamEvent.Began(run("run-of-" + attempt.user())));
                world.pass(seconds(2));
                return succeeded("run-of-" + attempt.user());
            }

            LookUpResult look(World world, Question question) {
                var begin = begins.get(question.attempt().user());
                if (begin == null || begin.isAfter(world.now())) return ABSENT;
                var run = "run-of-" + question.attempt().user();
                return begin.plusSeconds(2).isAfter(world.now()) ? running(run) : ended(succeeded(run));
            }

            void assertNothingPaidTwice() {
                users.forEach((row, all) -> assertEquals(1, all.size(), "row " + row));
            }
        }

        private Scene rows(int count, Mode mode) throws IOException {
            var scene = Scene.numbered(folder, count);
            scene.mode = mode;
            return scene;
        }

        private Scene queued(QueueOfWorker queue, AppKind app, int slots) throws IOException {
            var scene = rows(12, Mode.STREAMING);
            scene.app = app;
            scene.slots = slots;
            scene.answer = (attempt, listener) -> queue.stream(scene.world, attempt, listener);
            scene.found = question -> queue.look(scene.world, question);
            return scene;
        }

        /// Ends the session as `kill -9` does.
        private static void killAfter(Scene scene, long seconds) {
            scene.world.in(seconds(seconds), () -> scene.world.mailbox.add(() -> {
                throw new IllegalStateException("killed");
            }));
        }

        @ParameterizedTest(name = "{0}, {1} at a time, killed after {2} s")
        @CsvSource(useHeadersInDisplayName = true, nullValues = "-", textBlock = """
                app,      slots, killed
                WORKFLOW, 5,     -
                WORKFLOW, 12,    -
                WORKFLOW, 5,     100
                WORKFLOW, 5,     350
                WORKFLOW, 12,    100
                CHATFLOW, 5,     -
                CHATFLOW, 12,    -
                CHATFLOW, 5,     100
                CHATFLOW, 12,    200
                """)
        void causesNoSecondRunOfRowsThatWaitForAWorker(AppKind app, int slots, Long killed) throws Exception {
            var queue = new QueueOfWorker(NOON.plusSeconds(400));
            var scene = queued(queue, app, slots);
            if (killed != null) {
                killAfter(scene, killed);
                assertThrows(IllegalStateException.class, scene::play);
                var now = scene.world.now();
                scene = queued(queue, app, slots);
                scene.world.startAt(now.plusSeconds(1));
            }

            scene.play();

            queue.assertNothingPaidTwice();
            assertEquals(0, scene.tally.count(Event.LateEvent.class));
            var next = queued(queue, app, slots);
            next.world.startAt(NOON.plusSeconds(3600));
            next.play();
            queue.assertNothingPaidTwice();
            assertEquals(12, Set.copyOf(next.resultIds()).size());
        }

        static final List<Story> STORIES = Story.of("""
                streams that left at the same moment do not pass each other
                  given   rows 1 2, STREAMING, slots 2, settle 30
                  answers 1: cut; 2: 900ms began run-2 succeeded run-2
                  then    1 unknown, sent 1 2

                a stream of a killed session is sent again once one of the next session has begun
                  given   settle 30, rows 1, STREAMING, crash 1, rows 1 2, clock 3600
                  answers each: 1s began own succeeded own
                  then    sent 2 1, 1 not_started succeeded, start 1 3630..3700

                a stream that others have passed is sent again after the settle time
                  given   rows 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20, STREAMING, settle 30
                  answers 1: cut; each: 100ms began own 2s succeeded own
                  then    1 not_started succeeded, took 1 33..60

                the log remembers how far the queue has come
                  given   rows 1, STREAMING, crash 1, rows 1 2, clock 100
                  answers 2: began run-2 1s dies
                  then    dies
                  given   clock 3600
                  finds   2: succeeded run-2; else: absent
                  then    sent 1, 1 not_started succeeded

                a made-up failure does not show that the queue has moved
                  given   rows 1 2, STREAMING, wait 2
                  answers 1: cut; 2: madeUp name is required in input form
                  then    sent 1 2, 1 unknown

                a stream without an event is looked up by its user every 30 seconds
                  given   rows 1, STREAMING
                  answers 1: forever
                  finds   absent, running run-7, succeeded run-7
                  then    looked 3, known none, passed 90..92, runs run-7

                unresolved chatflow rows that are not looked up yet give way after a probe
                  given   rows 1 2 3, CHATFLOW, slots 2
                  answers 1: cut; 2: cut
                  then    sent 1 2 3 1 2, start 2 1..2

                an interrupt does not prolong a batch whose key is rejected
                  given   rows 1 2, STREAMING, slots 2, interrupt 2
                  answers 1: began run-1 120s succeeded run-1; 2: unauthorized
                  then    stop INTERRUPTED, passed 0..10
                """);

        @Test
        void doesNotUseUpTheTimeOfALookUp() throws Exception {
            var scene = rows(1, Mode.BLOCKING);
            var back = NOON.plusSeconds(240);
            scene.timeout = seconds(60);
            scene.answer = (_, _) -> cut(Symptom.NO_RESPONSE, run("run-1"));
            scene.probed = () -> scene.world.now().isBefore(back) ? Optional.of(cut(Symptom.NO_RESPONSE))
                    : Optional.empty();
            scene.found = _ -> scene.world.now().isBefore(back.plusSeconds(30))
                    ? new LookUpResult.Inconclusive(cut(Symptom.NO_RESPONSE)) : ended(succeeded("run-1"));

            scene.play();

            assertEquals(List.of("run-1"), scene.resultRuns());
            assertTrue(scene.world.passed().compareTo(seconds(300)) < 0, scene.world.passed().toString());
        }

        @Test
        void theProgressLineOmitsTheTimeLeftDuringALookUp() throws Exception {
            var scene = rows(5, Mode.STREAMING);
            var lines = new TreeSet<String>();
            scene.watched = tally -> {
                if (scene.world.passed().compareTo(seconds(40)) > 0) lines.add(Progress.line(tally, 1000));
            };
            scene.answer = (attempt, listener) -> {
                scene.world.pass(seconds(attempt.row().id().equals("5") ? 90 : 1));
                listener.accept(new StreamEvent.Began(run("run-" + attempt.row().id())));
                return succeeded("run-" + attempt.row().id());
            };

            scene.play();

            assertTrue(lines.stream().anyMatch(line -> line.contains("1 being looked up")), lines::toString);
            assertTrue(lines.stream().noneMatch(line -> line.contains(" left")), lines::toString);
        }

        /// 60 rows of two seconds, six at a time. Their server is killed in the middle; connections are reset, some at
        /// once and some later, until it is back.
        @ParameterizedTest
        @EnumSource(value = Mode.class, names = {"BLOCKING", "STREAMING"})
        void leavesNoMoreRowsUnresolvedThanThereAreSlots(Mode mode) throws Exception {
            Instant gone = NOON.plusSeconds(5), back = gone.plusSeconds(8);
            var scene = rows(60, mode);
            scene.slots = 6;
            var reset = cut(Symptom.NO_RESPONSE);
            BooleanSupplier isAway = () -> !scene.world.now().isBefore(gone) && scene.world.now().isBefore(back);
            var doubted = new HashSet<String>();
            var random = new Random(7);
            scene.answer = (attempt, listener) -> {
                var sent = scene.world.now();
                if (isAway.getAsBoolean()) {
                    scene.world.pass(Duration.ofMillis(random.nextInt(40)));
                    doubted.add(attempt.row().id());
                    return reset;
                }
                scene.world.pass(Duration.ofMillis(30));
                if (mode == Mode.STREAMING) listener.accept(new StreamEvent.Began(run("run-" + attempt.row().id())));
                boolean dies = sent.isBefore(gone) && !scene.world.now().plusSeconds(2).isBefore(gone);
                if (!dies) scene.world.pass(seconds(2));
                if (!dies) return succeeded("run-" + attempt.row().id());
                scene.world.pass(Duration.between(scene.world.now(), gone).plusMillis(random.nextInt(40)));
                doubted.add(attempt.row().id());
                return mode == Mode.STREAMING ? cut(Symptom.CUT, run("run-" + attempt.row().id())) : reset;
            };
            scene.found = question -> {
                if (isAway.getAsBoolean()) return new LookUpResult.Inconclusive(reset);
                var id = question.attempt().row().id();
                return doubted.contains(id) ? running("run-" + id) : ABSENT;
            };
            scene.probed = () -> isAway.getAsBoolean() ? Optional.of(reset) : Optional.empty();

            scene.play();

            assertTrue(doubted.size() <= 6, doubted::toString);
            assertTrue(scene.probes.size() > 1, "nothing asked whether the server is back");
            var last = back;
            for (var id : scene.resultIds()) if (scene.end(id).isAfter(last)) last = scene.end(id);
            assertEquals(60 - doubted.size(), scene.resultIds().size());
            long left = 60 - 12 - doubted.size();
            var ideal = Duration.ofMillis(2000 * left / 6);
            var most = ideal.multipliedBy(16).dividedBy(10).plus(seconds(30));
            assertTrue(Duration.between(back, last).compareTo(most) <= 0, Duration.between(back, last) + " of " + most);
        }

        @ParameterizedTest(name = "{0} at a time")
        @ValueSource(ints = {1, 2, 5})
        void makesTheBatchSendProbesInsteadOfRows(int slots) throws Exception {
            var scene = rows(20, Mode.BLOCKING);
            scene.slots = slots;
            var back = NOON.plusSeconds(60);
            var sentWhileAway = new ArrayList<String>();
            Supplier<Boolean> isAway = () -> scene.world.now().isBefore(back);
            scene.answer = (attempt, _) -> {
                if (!isAway.get()) return succeeded("run-" + attempt.row().id());
                sentWhileAway.add(attempt.row().id());
                return cut(Symptom.NO_RESPONSE);
            };
            scene.found = _ -> isAway.get() ? new LookUpResult.Inconclusive(cut(Symptom.NO_RESPONSE)) : ABSENT;
            scene.probed = () -> isAway.get() ? Optional.of(cut(Symptom.NO_RESPONSE)) : Optional.empty();

            scene.play();

            assertEquals(slots, sentWhileAway.size());
            assertEquals(20, scene.resultIds().size());
            for (int probe = 1; probe < scene.probes.size(); probe++)
                assertTrue(scene.probes.get(probe - 1).plusSeconds(4).isAfter(scene.probes.get(probe)),
                        scene.probes::toString);
        }

        /// The app is deleted while one stream continues.
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                status, code,          most
                401,    unauthorized,  10
                403,    access_denied, 10
                404,    not_found,     121
                """)
        void endsTheBatchAfterActiveRunsUnlessTheApiKeyIsRejected(int status, String code, long most) throws Exception {
            var scene = rows(3, Mode.STREAMING);
            scene.slots = 2;
            scene.answer = (attempt, listener) -> {
                if (attempt.row().id().equals("1")) {
                    listener.accept(new StreamEvent.Began(run("run-1")));
                    scene.world.pass(seconds(120));
                    return succeeded("run-1");
                }
                return http(status, code, "The app no longer exists.");
            };

            var stop = scene.play().orElseThrow();

            assertEquals(Exit.STOPPED, stop.exit());
            assertTrue(scene.world.passed().compareTo(seconds(most)) < 0, scene.world.passed().toString());
            assertEquals(List.of(), scene.stopped);
            assertEquals(most > 10 ? List.of("succeeded") : List.of(), scene.outcomes("1"));
        }
    }
}

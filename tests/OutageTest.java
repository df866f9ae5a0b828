package difyexec;

import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.Given.*;
import static org.junit.jupiter.api.Assertions.*;

/// Queues that stand still, servers that are away and apps that are gone, in virtual time.
final class OutageTest {
    @Nested
    class WhenTheServerStops extends Story.Sessions {
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

            LookUpResult look(World world, Unresolved unresolved) {
                var begin = begins.get(unresolved.attempt().user());
                if (begin == null || begin.isAfter(world.now())) return ABSENT;
                var run = "run-of-" + unresolved.attempt().user();
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
            scene.found = unresolved -> queue.look(scene.world, unresolved);
            return scene;
        }

        /// Ends the call as `kill -9` does.
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
        void rowsThatWaitForAWorkerArePaidOnce(AppKind app, int slots, Long killed) throws Exception {
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

        /// The worker was killed with the first row in its hands.
        @Test
        void aStreamThatOthersHavePassedIsSentAgainAfterTheSettleTime() throws Exception {
            var scene = rows(40, Mode.STREAMING);
            scene.answer = (attempt, listener) -> {
                if (attempt.sequence() == 1) return cut(Symptom.CUT);
                scene.world.pass(Duration.ofMillis(100));
                listener.accept(new StreamEvent.Began(run("run-" + attempt.sequence())));
                scene.world.pass(seconds(2));
                return succeeded("run-" + attempt.sequence());
            };

            scene.play();

            assertEquals(List.of("not_started", "succeeded"), scene.outcomes("1"));
            var again = scene.sent.stream().filter(attempt -> attempt.row().id().equals("1")).toList().getLast();
            assertTrue(again.at().isAfter(NOON.plusSeconds(31)) && again.at().isBefore(NOON.plusSeconds(60)),
                    again.at().toString());
        }

        static final List<Story> STORIES = Story.of("""
                streams that left at the same moment do not pass each other
                  given   rows 1 2, STREAMING, slots 2
                  answers 1: cut; 2: 900ms began run-2 succeeded run-2
                  then    1 unknown, sent 1 2

                a stream of a killed session is sent again once one of the next session has begun
                  given   rows 1, STREAMING, crash 1, rows 1 2, clock 3600
                  answers each: 1s began own succeeded own
                  then    sent 2 1, 1 not_started succeeded, start 1 3630..3700
                """);

        /// A stream of the second call began. The log says so to the third.
        @Test
        void theLogRemembersHowFarTheQueueHasCome() throws Exception {
            rows(1, Mode.STREAMING).crash(1);
            var second = rows(2, Mode.STREAMING);
            second.world.startAt(NOON.plusSeconds(100));
            second.answer = (attempt, listener) -> {
                listener.accept(new StreamEvent.Began(run("run-2")));
                second.world.pass(seconds(1));
                throw new IllegalStateException("the power fails");
            };
            assertThrows(IllegalStateException.class, second::play);
            var third = rows(2, Mode.STREAMING);
            third.world.startAt(NOON.plusSeconds(3600));
            third.found = unresolved -> unresolved.run().isPresent() ? ended(succeeded("run-2")) : ABSENT;

            third.play();

            assertEquals(List.of("1"), third.ids());
            assertEquals(List.of("not_started", "succeeded"), third.outcomes("1"));
        }

        @Test
        void aLateRunKeepsTheBatchFromCountingAsAllDone() throws Exception {
            var scene = rows(1, Mode.BLOCKING);
            scene.answer = Answer.inTurn(cut(Symptom.NO_ANSWER), succeeded("run-8"));
            scene.found = unresolved -> unresolved.is(Purpose.LATE) ? ended(succeeded("run-7")) : ABSENT;

            scene.play();

            assertEquals(List.of("1"), scene.resultIds());
            assertEquals(1, scene.tally.count(Event.LateEvent.class));
            assertFalse(scene.tally.isAllDone());
        }

        @Test
        void aStreamWithoutAnEventIsLookedUpByNameEvery30Seconds() throws Exception {
            var scene = rows(1, Mode.STREAMING);
            scene.answer = (_, _) -> {
                scene.world.waitFor(_ -> {});
                throw new AssertionError("nothing wakes a stream that was given up");
            };
            var asked = new ArrayList<Duration>();
            scene.found = unresolved -> {
                assertEquals(Optional.empty(), unresolved.run());
                asked.add(scene.world.passed());
                return asked.size() < 3 ? asked.size() < 2 ? ABSENT : running("run-7") : ended(succeeded("run-7"));
            };

            scene.play();

            assertEquals(List.of("run-7"), scene.resultRuns());
            for (int look = 0; look < 3; look++) {
                var late = asked.get(look).minus(seconds(30L * (look + 1)));
                assertTrue(!late.isNegative() && late.compareTo(seconds(2)) < 0, asked::toString);
            }
        }

        @Test
        void aRowThatIsOnlyWaitedForHasNoTimeLeftToShow() throws Exception {
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

            assertTrue(lines.stream().anyMatch(line -> line.contains("1 row is being looked up")), lines::toString);
            assertTrue(lines.stream().noneMatch(line -> line.contains(" left")), lines::toString);
        }

        /// 60 rows of two seconds, six at a time. Their server is killed in the middle; connections are reset, some at
        /// once and some later, until it is back.
        @ParameterizedTest
        @EnumSource(value = Mode.class, names = {"BLOCKING", "STREAMING"})
        void anOutageLeavesNoMoreRowsInDoubtThanRunAtATime(Mode mode) throws Exception {
            Instant gone = NOON.plusSeconds(5), back = gone.plusSeconds(8);
            var scene = rows(60, mode);
            scene.slots = 6;
            var reset = cut(Symptom.NO_ANSWER);
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
            var ran = new HashSet<String>();
            scene.found = unresolved -> {
                if (isAway.getAsBoolean()) return new LookUpResult.Silent(reset);
                var id = unresolved.attempt().row().id();
                return doubted.contains(id) && (ran.add(id) || true) ? running("run-" + id) : ABSENT;
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
            var most = ideal.multipliedBy(16).dividedBy(10).plus(scene.settle);
            assertTrue(Duration.between(back, last).compareTo(most) <= 0, Duration.between(back, last) + " of " + most);
        }

        @ParameterizedTest(name = "{0} at a time")
        @ValueSource(ints = {1, 2, 5})
        void aServerThatIsDownIsAskedForNoRow(int slots) throws Exception {
            var scene = rows(20, Mode.BLOCKING);
            scene.slots = slots;
            var back = NOON.plusSeconds(60);
            var sentWhileAway = new ArrayList<String>();
            Supplier<Boolean> isAway = () -> scene.world.now().isBefore(back);
            scene.answer = (attempt, _) -> {
                if (!isAway.get()) return succeeded("run-" + attempt.row().id());
                sentWhileAway.add(attempt.row().id());
                return cut(Symptom.NO_ANSWER);
            };
            scene.found = _ -> isAway.get() ? new LookUpResult.Silent(cut(Symptom.NO_ANSWER)) : ABSENT;
            scene.probed = () -> isAway.get() ? Optional.of(cut(Symptom.NO_ANSWER)) : Optional.empty();

            scene.play();

            assertEquals(slots, sentWhileAway.size());
            assertEquals(20, scene.resultIds().size());
            for (int probe = 1; probe < scene.probes.size(); probe++)
                assertTrue(scene.probes.get(probe - 1).plusSeconds(4).isAfter(scene.probes.get(probe)),
                        scene.probes::toString);
        }

        /// A chatflow's look-ups come two seconds after the request at the earliest.
        @Test
        void rowsInDoubtThatAreNotLookedUpYetGiveWayOnceAProbeIsAnswered() throws Exception {
            var scene = rows(3, Mode.BLOCKING);
            scene.app = AppKind.CHATFLOW;
            scene.slots = 2;
            scene.answer = (attempt, _) -> attempt.sequence() <= 2 ? cut(Symptom.NO_ANSWER) : succeeded("run-3");

            scene.play();

            assertEquals("3", scene.sent.get(2).row().id());
            assertTrue(scene.sent.get(2).at().isBefore(NOON.plusMillis(1500)), scene.sent.get(2).at().toString());
            assertEquals(NOON.plusSeconds(1), scene.probes.getFirst());
        }

        /// The app is deleted while one stream goes on.
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                status, code,          most
                401,    unauthorized,  10
                403,    access_denied, 10
                404,    not_found,     121
                """)
        void aKeyThatIsRejectedLaterStopsTheBatchWithinTenSeconds(int status, String code, long most) throws Exception {
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

        @Test
        void aMadeUpEndDoesNotShowThatTheQueueHasMoved() throws Exception {
            var scene = rows(2, Mode.STREAMING);
            scene.wait = seconds(2);
            scene.answer = (attempt, _) -> attempt.row().id().equals("1") ? cut(Symptom.NO_ANSWER)
                    : new Response.Ran(run("run-2"), Response.RunStatus.FAILED, outputs("{}"), "connection error", "",
                            Usage.NONE);

            scene.play();

            assertEquals(List.of("1", "2"), scene.ids());
            assertEquals(List.of("unknown"), scene.outcomes("1"));
        }

        @Test
        void anInterruptDoesNotProlongABatchWhoseKeyIsLetInNoMore() throws Exception {
            var scene = rows(2, Mode.STREAMING);
            scene.slots = 2;
            scene.grace = seconds(60);
            scene.interruptAfter(seconds(2));
            scene.answer = (attempt, listener) -> {
                if (attempt.row().id().equals("2")) return http(401, "unauthorized", "Access token is invalid");
                listener.accept(new StreamEvent.Began(run("run-1")));
                scene.world.pass(seconds(120));
                return succeeded("run-1");
            };

            assertEquals(Exit.INTERRUPTED, scene.play().orElseThrow().exit());

            assertTrue(scene.world.passed().compareTo(seconds(10)) < 0, scene.world.passed().toString());
        }
    }
}

package difyexec;

import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Nested;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.api.parallel.Execution;
import org.junit.jupiter.api.parallel.ExecutionMode;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.Given.*;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

/// Which data is on disk, and when.
final class PowerTest {
    /// The engine with a disk that is slow, fails, or cannot force data.
    @Nested
    @Timeout(60)
    class TheDisk {
        @TempDir Path folder;

        /// The content of each file of a scene when it was last forced to disk.
        private static class Recorder implements LineFile.Disk {
            final Scene scene;
            final Map<String, String> forced = new ConcurrentHashMap<>(Map.of("results", "", "log", ""));
            final Map<String, Integer> times = new ConcurrentHashMap<>();

            Recorder(Scene scene) {
                this.scene = scene;
                scene.disk = this;
            }

            @Override
            public void force(FileChannel channel, boolean all) throws IOException {
                var log = scene.file(".log");
                var name = Files.size(log) == channel.size() ? "log" : "results";
                times.merge(name, 1, Integer::sum);
                before(name);
                forced.put(name, Files.readString(name.equals("log") ? log : scene.output));
            }

            void before(String name) throws IOException {}
        }

        @ParameterizedTest
        @ValueSource(ints = {1, 3})
        void noRequestLeavesBeforeItsAttemptIsOnDisk(int slots) throws Exception {
            var scene = Scene.of(folder, "a", "b", "c", "d", "e");
            var disk = new Recorder(scene);
            scene.slots = slots;
            var early = new ArrayList<String>();
            scene.answer = (attempt, _) -> {
                if (!disk.forced.get("log").contains("\"" + attempt.user() + "\"")) early.add(attempt.row().id());
                return attempt.row().id().equals("b") && attempt.tries().retries() == 0 ? failed("Rate Limit Error")
                        : succeeded("run-" + attempt.row().id());
            };
            scene.found = _ -> ended(failed("Rate Limit Error"));

            scene.play();

            assertEquals(List.of(), early);
            assertEquals(6, scene.sent.size());
        }

        @Test
        void anEndIsWrittenOnlyOnceItsResultIsOnDisk() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c", "d");
            var early = new ArrayList<String>();
            var disk = new Recorder(scene) {
                @Override
                void before(String name) throws IOException {
                    for (var end : scene.log("end")) {
                        var id = end.path("id").asText();
                        if (!forced.get("results").contains("{\"id\":\"" + id + "\"")) early.add(id);
                    }
                }
            };
            scene.slots = 2;

            scene.play();

            assertEquals(List.of(), early);
            assertEquals(4, scene.log("end").size());
            assertEquals(Files.readString(scene.file(".log")), disk.forced.get("log"), "all is on disk at the end");
            assertEquals(Files.readString(scene.output), disk.forced.get("results"));
        }

        @Test
        void answersAreProcessedWhileTheDiskIsBusy() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c");
            var busy = new CountDownLatch(1);
            var heard = new CountDownLatch(1);
            new Recorder(scene) {
                @Override
                void before(String name) throws IOException {
                    if (!name.equals("log") || times.get(name) != 2) return; // the attempt of row c
                    busy.countDown();
                    try {
                        assertTrue(heard.await(20, TimeUnit.SECONDS), "the engine waits for the disk");
                    } catch (InterruptedException problem) {
                        throw new IOException(problem);
                    }
                }
            };
            scene.slots = 2;
            scene.inRealTime = true;
            scene.answer = (attempt, _) -> {
                if (attempt.row().id().equals("b")) busy.await();
                return succeeded("run-" + attempt.row().id());
            };
            scene.watched = tally -> {
                if (tally.succeeded() == 2) heard.countDown();
            };

            assertEquals(Optional.empty(), scene.play());

            assertEquals(Set.of("a", "b", "c"), Set.copyOf(scene.resultIds()));
        }

        @Test
        void aDiskThatFailsForTheLogEndsTheBatchBeforeTheRequest() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            var disk = new Recorder(scene) {
                @Override
                void before(String name) throws IOException {
                    throw new IOException("Input/output error");
                }
            };

            var stop = scene.play().orElseThrow();

            assertEquals(Exit.STOPPED, stop.exit());
            assertTrue(stop.text().contains("results.jsonl.log: Input/output error"), stop.text());
            assertTrue(stop.text().contains("\nhint: "), stop.text());
            assertEquals(List.of(), scene.sent);
            assertEquals(1, disk.times.get("log"), "a second try might report a success that it is not");
        }

        @Test
        void aDiskThatFailsForTheResultsLeavesTheRowToALookUp() throws Exception {
            var scene = Scene.of(folder, "a");
            var disk = new Recorder(scene) {
                @Override
                void before(String name) throws IOException {
                    if (name.equals("results")) throw new IOException("Input/output error");
                }
            };

            var stop = scene.play().orElseThrow();

            assertEquals(Exit.STOPPED, stop.exit());
            assertEquals(1, disk.times.get("results"));
            assertEquals(List.of(), scene.log("end"));

            Files.delete(scene.output); // the disk has lost it
            scene.disk = (_, _) -> {};
            scene.found = _ -> ended(succeeded("run-a"));
            scene.sent.clear();
            assertEquals(Optional.empty(), scene.play());

            assertEquals(List.of("a"), scene.resultIds());
            assertEquals(List.of(), scene.sent, "it is not paid for again");
        }

        @ParameterizedTest
        @ValueSource(strings = {"Invalid argument", "Operation not supported"})
        void aFileSystemThatCannotForceIsNotedOnce(String why) throws Exception {
            var scene = Scene.of(folder, "a", "b", "c");
            new Recorder(scene) {
                @Override
                void before(String name) throws IOException {
                    throw new IOException(why);
                }
            };

            assertEquals(Optional.empty(), scene.play());

            assertEquals(1, scene.said.size(), scene.said::toString);
            assertTrue(scene.said.getFirst().contains("results.jsonl.log"), scene.said.getFirst());
            assertEquals(List.of("a", "b", "c"), scene.resultIds());
        }

        @Test
        void anAttemptThatWaitsForTheDiskIsNotSentOnceTheCallIsToEnd() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            var stopping = new CountDownLatch(1);
            new Recorder(scene) {
                @Override
                void before(String name) {
                    if (!Files.exists(scene.output) || !name.equals("log")) return;
                    scene.engine.interrupt("INT");
                    WholeCommand.await(stopping);
                }
            };
            scene.inRealTime = true;
            scene.watched = _ -> {
                if (!scene.said.isEmpty()) stopping.countDown();
            };

            assertEquals(Exit.INTERRUPTED, scene.play().orElseThrow().exit());

            assertEquals(List.of("a"), scene.ids());
            assertEquals(List.of("unreached"), scene.outcomes("b"));
            scene.disk = (_, _) -> {};
            assertEquals(Optional.empty(), scene.play());
            assertEquals(List.of("a", "b"), scene.resultIds());
            assertTrue(scene.looked.isEmpty(), "nothing is unresolved");
        }

        @Test
        void linesAreForcedWithinASecondThoughNothingWaitsForThem() throws Exception {
            var scene = Scene.of(folder, "a");
            var disk = new Recorder(scene);
            scene.mode = Mode.STREAMING;
            scene.answer = (_, listener) -> {
                listener.accept(new Heard.Began(run("run-a")));
                scene.world.pass(seconds(1));
                assertTrue(disk.forced.get("log").contains("\"run-a\""));
                return succeeded("run-a");
            };

            assertEquals(Optional.empty(), scene.play());

            assertFalse(disk.forced.get("results").isEmpty());
        }
    }

    /// A short version of `benchmarks/powercut`.
    @Nested
    @Timeout(300)
    @Execution(ExecutionMode.CONCURRENT)
    class ThePowerCut {
        @TempDir Path folder;

        @BeforeEach
        void needsStrace() {
            assumeTrue(PowerCut.isPossible(), "strace cannot be used here");
        }

        @ParameterizedTest
        @CsvSource({"BLOCKING, 7", "STREAMING, 7", "CHATFLOW, 2", "MERGE, 4"})
        void losesNothingAndPaysForNothingTwice(PowerCut.Mode mode, int states) throws Exception {
            var count = new PowerCut().measure(folder, mode, 24, states, false);

            assertTrue(count.isGood() && count.unknown == 0, count::toString);
        }

        @Test
        void paysTwiceIfNothingHadBeenForced() throws Exception {
            var count = new PowerCut().measure(folder, PowerCut.Mode.BLOCKING, 24, 5, true);

            assertTrue(count.paidTwice > 0, count::toString);
        }
    }
}

package difyexec;

import org.junit.jupiter.api.*;
import org.junit.jupiter.api.condition.*;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.api.parallel.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.Given.*;
import static org.junit.jupiter.api.Assertions.*;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

/// Files that cannot be examined, read, locked or listed, and temporary files of this and of other programs.
class StorageTest {
    /// One process runs all their commands, one at a time.
    @Tag("slow")
    @Nested
    @Execution(ExecutionMode.SAME_THREAD)
    class FileSystemErrors extends WholeCommand {
        @Test
        void keepAReasonThatNamesNoFileWhole() {
            var problem = assertThrows(UncheckedIOException.class, () -> Storage.withFileName(Path.of("a.log"), () -> {
                throw new IOException("disk: quota: exceeded");
            }));

            assertEquals("a.log: disk: quota: exceeded", problem.getMessage());
        }

        private static final int EIO = 5, EACCES = 13;

        @TempDir static Path own;
        private static FaultyTool tool;
        private Simulated dify;
        private String stdin = "";

        @BeforeAll
        static void startTool() throws Exception {
            if (FaultyDisk.isPossible())
                tool = FaultyTool.start(FaultyDisk.compile(checkout().resolve("benchmarks/iofault.c"), own), own);
        }

        @AfterAll
        static void stopTool() throws IOException {
            if (tool != null) tool.close();
        }

        @BeforeEach
        void start() throws IOException {
            assumeTrue(tool != null, "no C compiler");
            dify = new Simulated("--latency", "10ms");
        }

        /// Row 2 has failed once, and will succeed.
        private int ran() throws IOException {
            rows(3);
            replace("data.csv", "2,", "2,[fail]");
            dify.run();
            return dify.runs();
        }

        /// Runs the tool in another process, with a fault on a file. Empty: it ended before it met the fault.
        private Optional<Call> broken(String file, FaultyDisk.Fault fault, String... words) throws Exception {
            var done = tool.run(folder.toRealPath().resolve(file), fault,
                    new FaultyTool.Command(dify.settings(), folder.toString(), stdin, List.of(words)));
            if (done.isEmpty()) return Optional.empty();
            var call = new Call(done.get().code(), done.get().out(), done.get().err());
            keyIsNowhere(call);
            return Optional.of(call);
        }

        /// Runs the tool with a fault at the first such call, at the second, and so on, until it does not meet one.
        private List<Call> brokenAtEach(String fault, String file, String... words) throws Exception {
            var calls = new ArrayList<Call>();
            for (int number = 1; number < 30; number++) {
                var call = broken(file, once(fault, number), words);
                if (call.isEmpty()) break;
                calls.add(call.get());
            }
            return calls;
        }

        private FaultyDisk.Fault once(String call, int number) {
            return new FaultyDisk.Fault(call, number, number, EIO);
        }

        private Call names(String file, Call call) {
            return call.reports(file).omits("\tat ", "Exception");
        }

        /// Once per question about the file: "it does not exist" would forget the run that the log records.
        @ParameterizedTest
        @ValueSource(strings = {"results.jsonl.log", "results.jsonl", "results.jsonl.retry"})
        void aFileThatCannotBeExaminedIsNotTreatedAsMissing(String name) throws Exception {
            int runs = ran();
            var sound = call(Map.of(), "status", "-o", output()).out();

            var calls = brokenAtEach("stat", name, "status", "-o", output());
            var call = broken(name, new FaultyDisk.Fault("stat", 1, 0, EIO), typed("run")).orElseThrow();

            assertFalse(calls.isEmpty());
            for (var each : calls) {
                if (each.code() == 2) names(name, each);
                else assertEquals(sound, each.out());
            }
            names(name, call.exits(2));
            assertEquals(runs, dify.runs());
        }

        @Test
        void outcomesThatAreNotOnDiskAreNotCounted() throws Exception {
            rows(3);

            var call = broken("results.jsonl", new FaultyDisk.Fault("fsync", 1, 0, EIO), typed("run", "--json"))
                    .orElseThrow().exits(4).hints("without --fresh");

            names("results.jsonl", call).omits("succeeded");
            assertEquals("exit_code reason", keys(tree(call.out())));
            call(dify.settings(), typed("run")).exits(0);
            assertEquals("succeeded=3", status());
        }

        @ParameterizedTest(name = "{0}: {2} of {1}")
        @CsvSource({
            "run,                        .,                  readdir",
            "retry,                      results.jsonl.retry, read",
            "retry,                      results.jsonl.retry, open",
            "status,                     results.jsonl.log,  read",
            "status,                     results.jsonl,      close",
            "status --html report.html,  report.html,        stat",
            "run,                        results.jsonl.lock, lock",
            "run,                        results.jsonl.lock, open",
            "run,                        results.jsonl.log,  lock",
            "run,                        results.jsonl,      lock",
            "run,                        results.jsonl,      seek",
            "run --shard 1/2,            .,                  readdir"
        })
        void anErrorBeforeAnyRequestIsReportedWithTheFile(String command, String file, String fault) throws Exception {
            int runs = ran();
            var typed = command.replace("report.html", path("report.html"));
            var words = words(List.of(typed.split(" ")), "-i", input(), "-o", output());

            var call = broken(file.equals(".") ? "" : file, once(fault, 1), words).orElseThrow().exits(2);
            names(file.equals(".") ? folder.getFileName().toString() : file, call);
            assertEquals(runs, dify.runs());
        }

        /// After a power cut, a file that was renamed before could be there without its content.
        @Test
        void anExportKeepsTheOldFileIfTheNewOneCannotBeSynced() throws Exception {
            rows(3);
            dify.run();
            Files.writeString(file("out.csv"), "old");

            names("out.csv", broken("", once("fsync", 1), "export", "-i", input(), "-o", output(), path("out.csv"),
                    "--force").orElseThrow().exits(2));
            assertEquals("old", content("out.csv"));
        }

        /// It could be locked as little as the file that replaces it.
        @Test
        void aTemporaryFileThatCannotBeLockedIsDeleted() throws Exception {
            rows(3);
            dify.run();
            var before = names();

            names("out.csv", broken("", once("lock", 1), "export", "-i", input(), "-o", output(), path("out.csv"))
                    .orElseThrow().exits(2));

            assertEquals(before, names());
        }

        @Test
        void aFailedFsyncAtAStartIsReportedWithItsFile() throws Exception {
            rows(2);
            dify.run("--limit", "1");

            for (var call : brokenAtEach("fsync", "results.jsonl", typed("run", "--limit", "1")))
                names("results.jsonl", call).omits("NotForced", "Forced");
            assertEquals(2, dify.runs());
        }

        /// The file is opened for its first line, when the row has run.
        @Test
        void aResultIsStillWrittenIfItsFileCannotBeLockedAtFirst() throws Exception {
            rows(1);

            var call = broken("results.jsonl", once("lock", 1), typed("run", "--json")).orElseThrow().exits(4);
            names("results.jsonl", call);
            assertEquals(4, tree(call.out()).path("exit_code").asInt());
            assertEquals(1, dify.runs());
            assertEquals(1, content("results.jsonl").lines().count());
        }

        @ParameterizedTest(name = "{1} of {0}")
        @CsvSource({"results.jsonl.lock, stat", "results.jsonl.lock, lock", "results.jsonl, lock"})
        void aFailedLockDoesNotBlockTheNextRunInTheShell(String file, String fault) throws Exception {
            rows(2);
            // one row at a time: no second run is under way when the first one stops
            stdin = "run --progress off --mode blocking -c 1\n".repeat(2);
            int succeeded = 0;

            for (int number = 1; ; number++) {
                int runs = dify.runs();
                for (var name : List.of("results.jsonl", "results.jsonl.log")) Files.deleteIfExists(file(name));
                var call = broken(file, once(fault, number), "shell", "--keep-going", "-i", input(), "-o", output());
                if (call.isEmpty()) break;
                call.get().omits("another difyexec process");
                if (dify.runs() == runs) continue; // the shell did not start
                assertEquals(runs + 2, dify.runs(), call.get().err());
                assertEquals(2, content("results.jsonl").lines().count(), call.get().err());
                succeeded++;
            }
            assertTrue(succeeded > 0);
        }

        @Test
        void aReadErrorOfTheInputIsReportedWithItsFile() throws Exception {
            Files.writeString(file("data.jsonl"), "{\"id\":\"1\",\"text\":\"a\"}\n");

            var calls = brokenAtEach("read", "data.jsonl", "check", "--demo", "-i", path("data.jsonl"));

            assertTrue(calls.size() > 1);
            for (var call : calls) names("data.jsonl", call.exits(2));
        }

        /// It is opened to recognize its format and to read the header, the column that the demo answers, the ids, the
        /// cells before the first request, and the rows that are sent.
        @Test
        void aFreshDemoOpensTheInputSixTimes() throws Exception {
            rows(2);
            var words = new String[] {"run", "--fresh", "--demo", "-i", input(), "-o", output()};

            assertTrue(broken("data.csv", once("open", 6), words).isPresent());
            assertTrue(broken("data.csv", once("open", 7), words).isEmpty());
        }

        /// It is not known which settings are in the file, so none is named.
        @Test
        void anEnvFileOfAnotherUserIsRejectedWithThatReason() throws Exception {
            rows(1);
            Files.writeString(file(".env"), "MAX_RETRIES=5\n");

            for (var command : List.of("run", "check")) {
                var words = command.equals("run") ? typed("run") : new String[] {"check", "-i", input()};
                broken(".env", new FaultyDisk.Fault("open", 1, 0, EACCES), words).orElseThrow().exits(2)
                        .reports(".env", "permission denied").omits("MAX_RETRIES", "UTF-8");
            }
        }

        @ParameterizedTest
        @ValueSource(strings = {"open", "read"})
        void anErrorOfTheInputNamesTheFileOnce(String fault) throws Exception {
            rows(2);

            var calls = brokenAtEach(fault, "data.csv", "run", "--demo", "-i", input(), "-o", output());

            // an error while the rows below the header are only looked at is found when they are read, or has passed
            var failed = calls.stream().filter(call -> call.code() != 0).toList();
            assertFalse(failed.isEmpty());
            for (var call : failed) {
                names("data.csv", call);
                assertEquals(2, call.sentence().lines().findFirst().orElse("").split("data[.]csv", -1).length,
                        call::toString);
            }
        }
    }

    /// Faults that need no library.
    @Nested
    class AFileError extends WholeCommand {
        /// A folder in its place cannot be read, just as a file that another program has locked on Windows.
        @Test
        @DisabledOnOs(OS.WINDOWS) // does not rename an open file
        void isNoneIfTheLogCannotBeReadAfterItsLastLine() throws Exception {
            var scene = Scene.of(folder, "a");
            try (var writer = scene.open()) {
                scene.play(writer);
                Files.move(scene.file(".log"), file("moved"));
                Files.createDirectory(scene.file(".log"));

                assertEquals(Optional.empty(), writer.finish(_ -> {}));
            }
        }

        @Test
        void isReportedWithTheFileAndExitCodeTwoAlsoInJson() throws Exception {
            rows(1);
            var name = "x".repeat(250) + ".jsonl";

            var call = call(Map.of(), "run", "--demo", "--json", "-i", input(), "-o", path(name)).exits(2)
                    .reports(name);
            assertEquals(2, tree(call.out()).path("exit_code").asInt());
        }
    }

    @Nested
    class ATemporaryFile extends WholeCommand {
        private static final String OTHER = "01234567-89ab-cdef-0123-456789abcdef-01234567-89ab-cdef-0123-456789abcdef";

        @Test
        void isDeletedWhenClosedButNotWhileInUse() throws IOException {
            try (var temporary = Temporary.of(folder, "x-")) {
                Temporary.removeAbandoned(folder, "x-");
                assertTrue(Files.exists(temporary.path()), "a file in use stays");
            }

            assertEquals(Set.of(), names());
        }

        /// A process that gets a signal exits before it closes them.
        static final class Interrupted {
            static void main(String... folder) throws IOException {
                Temporary.of(Path.of(folder[0]), "x-");
                System.exit(0);
            }
        }

        @Test
        void isRemovedWhenASignalEndsTheProcess() throws Exception {
            var words = Given.Tool.words();
            words.set(words.size() - 1, Interrupted.class.getName());
            words.add(path("out"));
            Files.createDirectory(file("out"));

            ended(start(words, Map.of())).exits(0);

            assertEquals(0, Storage.list(file("out")).size());
        }

        /// Only a complete name of our form counts.
        @ParameterizedTest(name = "{0} is removed: {1}")
        @CsvSource({
            "x-" + OTHER + ".tmp, true",
            "x-" + OTHER + ".tmp.old, false",
            "y-" + OTHER + ".tmp, false",
            OTHER + ".tmp, false",
            "x-nightly.tmp, false",
            "x-{.tmp, false",
            "x-[.tmp, false"
        })
        void isRemovedWhenAbandonedOnlyIfItsNameIsOfTheToolsFormat(String name, boolean isRemoved) throws IOException {
            Files.createFile(file(name));

            Temporary.removeAbandoned(folder, "x-");

            assertEquals(isRemoved, !Files.exists(file(name)));
        }

        @Test
        void isRemovedByTheNextSessionIfADownloadLeftItBehind() throws IOException {
            rows(1);
            Files.createDirectory(file("out"));
            Files.createFile(file("out/.difyexec-" + OTHER + ".tmp"));
            Files.createFile(file("out/.difyexec-notes.tmp"));

            new Simulated().run("--save-files", path("out"));

            assertFalse(Files.exists(file("out/.difyexec-" + OTHER + ".tmp")));
            assertTrue(Files.exists(file("out/.difyexec-notes.tmp")));
        }

        /// Any user can write to the folder for temporary files.
        @Test
        void otherFilesInTheTemporaryFolderAreLeftUntouched() throws Exception {
            rows(1);
            var names = Set.of("difyexec-{.lock", "difyexec-[.lock", "difyexec-nightly.lock", "difyexec-nightly.lock-1",
                    "difyexec-" + OTHER + ".lock", OTHER + ".tmp");
            var temporary = Files.createDirectory(file("tmp"));
            for (var name : names) Files.createFile(temporary.resolve(name));

            var words = Given.Tool.words("-Djava.io.tmpdir=" + temporary);
            words.addAll(List.of("check", "--demo", "-i", input()));
            ended(start(words, Map.of())).exits(0);

            try (var files = Files.list(temporary)) {
                assertEquals(names, files.map(path -> path.getFileName().toString())
                        .filter(name -> !name.startsWith("jlinenative")) // on Windows
                        .collect(Collectors.toSet()));
            }
        }

        @Test
        @DisabledOnOs(OS.WINDOWS) // reports that there is no such file
        void aMissingFileCountsAsAbsentButAnUnusablePathAsAnError() {
            assertFalse(Storage.exists(file("none")));
            var tooLong = folder.resolve("x".repeat(300));
            assertTrue(Storage.exists(tooLong), "the system does not say");
            var problem = assertThrows(UncheckedIOException.class, () -> Storage.attributes(tooLong));
            assertTrue(problem.getMessage().startsWith(folder + "/xxx"), problem.getMessage());
            assertThrows(UncheckedIOException.class, () -> Storage.list(file("none")));
        }
    }
}

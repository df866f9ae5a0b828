package difyexec;

import difyexec.DifyExec.Release.Listing;
import org.junit.jupiter.api.*;
import org.junit.jupiter.api.condition.*;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.DifyExec.Attempt.Tries;
import static difyexec.DifyExec.Event.*;
import static difyexec.DifyExec.Response.RunStatus;
import static difyexec.Given.*;
import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.*;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

/// The files of a batch.
final class BatchTest {
    @TempDir Path folder;

    @Nested
    class TheFirstLineOfAFile {
        /// From `results`, from `log`, from `both` or from `none`.
        private String kind(String text) throws IOException {
            var file = Files.writeString(folder.resolve("file"), text);
            boolean result = BatchFiles.isOurs(file, ResultLine::isResult, ResultLine.BEGINNING);
            boolean event = BatchFiles.isOurs(file, line -> Lines.read(Event::read, line).isPresent(), Event.BEGINNING);
            return result ? event ? "both" : "results" : event ? "log" : "none";
        }

        @ParameterizedTest(name = "{0}: {1}")
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', quoteCharacter = '`', textBlock = """
                text                                                                   | kind
                ``                                                                     | both
                \uFEFF                                                                 | both
                {'id':'a','status':'success','outputs':{}}\\n                           | results
                \uFEFF{'id':'a','status':'success'}\\nkeep me                           | results
                {'id': 7, 'outputs': {'outputs': {}}, 'status': 'success'}\\r\\n         | results
                {'id':'a','status':'success'}                                          | results
                \uFEFF{'id':                                                           | results
                {'id': 'größer \\\\' still the id                                        | results
                {'id':'a','sta                                                         | results
                \uFEFF{'id': 'a', 'status': 'success', 'inputs': {'text': 'x           | results
                {'event':'session','t':'2026-01-16T12:00:00Z','format':3}\\n            | log
                {'t':'2026-01-16T12:00:00Z','event':'torn','file':'x'}\\n{'event        | log
                {'event':'end','t':'2026-01-16T12:00:00Z','id':'a','outcome':'failed'} | log
                {'event':'ses                                                          | log
                {'event':'session','t':'2026-01-16T12:00:00Z','tool':'dify             | log
                keep me                                                                | none
                keep me\\n                                                             | none
                \uFEFFid,text\\n1,a                                                    | none
                \\n                                                                    | both
                \uFEFF\\r\\n \\n                                                       | both
                \\n{'id':'a','status':'success'}\\n                                    | results
                \uFEFF\uFEFF{'id':'a','status':'success'}\\n                         | results
                {                                                                      | both
                {'id'                                                                  | results
                \uFEFF{'i                                                              | results
                {'ev                                                                   | log
                {'ix                                                                   | none
                {\\n  'id': 'a',\\n  'status': 'success'\\n}\\n                           | none
                {'a':1}                                                                | none
                {'id':'a'}\\n{'id':'a','status':'success'}\\n                           | none
                {'id':null,'status':null}\\n                                           | none
                ['id','status']\\n                                                     | none
                {'id':'a','status':'success'\\n                                        | none
                {'id':'a','name':'Bo                                                   | none
                {'id': 7, 'sta                                                         | none
                {'id':'a','status':'open','ti                                          | none
                {'id':'a','status':'open','title':'their own'}\\n                      | none
                {'event':'click','t':'2026-01-16T12:00:00Z'}\\n                         | none
                {'event':'session','format':2}\\n                                      | none
                {'event':'session','t':'today'}\\n                                     | none
                {'event':'session','id':7                                              | none
                {'event':'click','t':'2026-01-16                                       | none
                {'event':'session','t':'2026-01-16T12:00:00Z'\\n                        | none
                """)
        void identifiesTheFileAsResultsLogOrNeither(String text, String kind) throws IOException {
            assertEquals(kind, kind(json(text).translateEscapes()));
        }

        @Test
        void identifiesTheFileByItsBeginningIfItIsVeryLong() throws IOException {
            var rest = "x".repeat(200_000);
            var id = json("{'id':'") + rest;
            var inputs = json("{'id':'a','status':'success','inputs':{'text':'") + rest;

            assertEquals("results", kind(id));
            assertEquals("results", kind(inputs + json("'}}\n")));
            assertEquals("none", kind(rest));
            assertEquals("none", kind(json("{'id':'a','name':'") + rest + json("','status':'success'}\n")));
        }
    }

    @Nested
    class FileWriting extends WholeCommand {
        @Test
        void writesOneByteOrderMarkEvenIfTheFileIsReopened() throws IOException {
            var path = folder.resolve("lines");
            for (var line : List.of("one", "two"))
                try (var file = new LineFile(path, Lines.BOM, FileChannel::force)) {
                    file.add(line);
                    assertEquals(line.equals("two"), Files.exists(path));

                    file.write();
                    file.write();
                }

            assertEquals("\uFEFF\"one\"\n\"two\"\n", Files.readString(path));
        }

        @Test
        void keepsTheLinesOfAFailedWriteForTheNextWrite() throws IOException {
            var path = Files.createDirectory(folder.resolve("lines"));
            try (var file = new LineFile(path, new byte[0], FileChannel::force)) {
                file.add("one");
                assertThrows(UncheckedIOException.class, file::write);

                Files.delete(path); // there is space again
                file.write();
            }

            assertEquals("\"one\"\n", Files.readString(path));
        }

        @Test
        void failsWhileAnotherProcessHasTheFileOpen() throws IOException {
            var path = folder.resolve("lines");
            try (var file = new LineFile(path, new byte[0], FileChannel::force)) {
                file.add("one");
                try (var other = new LineFile(path, new byte[0], FileChannel::force)) {
                    other.add("other");
                    other.write();
                    for (int time = 0; time < 2; time++) assertThrows(UncheckedIOException.class, file::write);
                }

                file.write();
            }

            assertEquals("\"other\"\n\"one\"\n", Files.readString(path));
        }

        /// A process that may write only small files: the shell's limit simulates a full disk.
        private Process onASmallDisk(String... args) throws IOException {
            assumeTrue(Files.isExecutable(Path.of("/bin/sh")));
            var temporary = Files.createDirectory(file("tmp"));
            var words = new ArrayList<>(List.of("/bin/sh", "-c", "ulimit -f 60; exec \"$@\"", "sh"));
            words.addAll(Given.Tool.words("-XX:-UsePerfData", "-Djava.io.tmpdir=" + temporary));
            words.addAll(List.of(args));
            return start(words, Map.of());
        }

        @Test
        void removesTheCopyOfStandardInputIfTheDiskIsFull() throws Exception {
            var process = onASmallDisk("check", "--demo", "-i", "-");
            try (var input = process.outputWriter()) {
                input.write("id,text\n" + "1,more\n".repeat(10_000));
            } catch (IOException _) {
                // it stops reading here
            }

            ended(process).exits(Exit.UNUSABLE.code);

            try (var left = Files.list(file("tmp"))) {
                assertEquals(List.of(), left.toList());
            }
        }

        @Test
        void stopsTheBatchWithoutLosingAResultIfTheDiskIsFull() throws Exception {
            var rows = IntStream.range(0, 60).mapToObj(row -> "r" + row + ",long" + " and longer".repeat(180));
            csv(Stream.concat(Stream.of("id,text"), rows).toArray(String[]::new));

            var call = ended(onASmallDisk(typed("run", "--demo", "-c", "2"))).exits(Exit.STOPPED.code);

            call.says("cannot write");
            assertTrue(content("results.jsonl").endsWith("\n"));
            int written = ids().size();
            assertTrue(written > 2 && written < 60, call::toString);
            call.mentions(written + " succeeded");
        }
    }

    @Nested
    class TheBatchLog {
        @Test
        void everyKindOfEventIsReadAsItWasWritten() throws IOException {
            var path = folder.resolve("log");
            var events = List.<Event>of(session(0, "1.14.2"),
                    new MergeEvent(NOON), attempt(1, "größe \"1\" 😀", "user-1"),
                    new RunEvent(NOON, "a", "user-1", "run-1", "task-1"),
                    end(2, "a", "user-1", "failed", "run-1", "no such city"),
                    new ResponseEvent(NOON, "a", "user-1", 503),
                    new LookEvent(NOON, "a", "user-1", "run-1", "absent"),
                    new HarvestEvent(NOON, "user-1", "run-1"),
                    new StopEvent(NOON, "why", "user-1", "task-1", 7),
                    new ThrottleEvent(NOON, "user-1", "why", 3),
                    new LateEvent(NOON, "a", "user-1", "run-1", "succeeded"),
                    end(2, "a", "user-1", "paused", "run-1", ""),
                    new TornEvent(NOON, "results.jsonl", 10, 20));
            try (var file = new LineFile(path, new byte[0], FileChannel::force)) {
                events.forEach(file::add);
                file.write();
            }
            var read = new ArrayList<Event>();

            var bad = Event.scan(path, (event, _) -> read.add(event));

            assertEquals(List.of(), bad);
            assertEquals(events, read);
            assertEquals(events.size(), Files.readAllLines(path).size());
        }

        @Test
        void unreadableLinesAreReportedByLineNumber() throws IOException {
            var path = Files.writeString(folder.resolve("log"), """
                    {"event":"look","t":"2026-01-16T12:00:00Z","user":"u","saw":"absent","later":{"is":"ignored"}}
                    {"event":"look","t":"2026-
                    {"event":"holiday","t":"2026-01-16T12:00:00Z"}

                    {"event":"look","t":"yesterday","user":"u","saw":"absent"}
                    {"t":"2026-01-16T12:00:00Z"}
                    []
                    {"event":"end","t":"2026-01-16T12:00:00Z","id":"a","user":"u"}
                    {"event":"attempt","t":"2026-01-16T12:00:00Z","id":"a","user":"u","mode":"telepathic"}
                    {"mood":"good","event":"harvest","t":"2026-01-16T12:00:00Z","user":"u","run":"r"}
                    {"event":"harvest","t":"2026-01-16T12:00:00Z"}{"event":"attempt","t":"2026-01-16T12:00:00Z"}
                    """);
            var read = new ArrayList<Event>();

            var bad = Event.scan(path, (event, _) -> read.add(event));

            assertEquals(List.of(new LookEvent(NOON, "", "u", "", "absent"), new HarvestEvent(NOON, "u", "r")), read);
            assertEquals(Stream.of(2, 3, 5, 6, 7, 8, 9, 11).map(line -> path + ":" + line).toList(), bad);
        }
    }

    @Nested
    class TheResultsFile {
        @Test
        void matchesTheGoldenFile() throws IOException {
            var cells = new LinkedHashMap<String, String>();
            cells.put("id", "r-1");
            cells.put("text", "größer \"日本語\" 😀\nnext line");
            cells.put("number", "007");
            var row = new Row(0, 2, "r-1", cells);
            var attempt = Given.sent(1, row, new Tries(2, 5, 0), "user-1", Mode.STREAMING,
                    row.hash(), NOON);
            var outputs = json("{'answer':'日本語 😀','n':12345678901234567890,'price':1.10,'list':[1,null,{}]}");
            var streamed = new Response.Ran(run("run-1"), RunStatus.SUCCEEDED, Given.outputs(outputs),
                    "", "workflow-1", new Usage(1.25, 3, new Cost(120, new BigDecimal("0.0018"), "USD")));
            var partial = new Response.Ran(run("run-2"), RunStatus.PARTIAL, outputs("{}"),
                    "", "workflow-1", new Usage(0.5, 2, Cost.NONE));

            var path = folder.resolve("results.jsonl");
            try (var file = new LineFile(path, new byte[0], FileChannel::force)) {
                file.add(ResultLine.of(attempt, streamed, NOON.plusMillis(1234)).json());
                file.add(ResultLine.of(attempt, partial, NOON).json());
                file.write();
            }

            Golden.check("results.txt", Files.readString(path));
        }

        /// `ids; numbers of bad lines`
        private String read(String text) throws IOException {
            var index = new Index();
            var history = new History(index);
            history.readResults(Files.writeString(folder.resolve("results.jsonl"), text), false, List.of());
            return IntStream.range(0, index.size()).mapToObj(index::id).collect(Collectors.joining(" ")) + ";"
                    + history.unreadable().map(note -> note.replaceAll("^[^(]*|[^ (]*:|[,)]", "").replace("(", " "))
                            .orElse("");
        }

        @ParameterizedTest
        @CsvSource(delimiter = '|', quoteCharacter = '`', useHeadersInDisplayName = true, textBlock = """
                line                                                                       | kind
                {"id":"a","status":"success","inputs":{"id":"b"},"outputs":{"status":"x"}} | succeeded
                {"id":"a","status":"success","workflow_status":"partial-succeeded"}        | partial
                {"status":"success","outputs":{"outputs":{"id":"b"}},"id":" a "}           | succeeded
                {"id": "a", "status": "success", "outputs": {"outputs": {"n": NaN}}}       | succeeded
                \uFEFF\uFEFF{"id":"a","status":"success"}                                  | succeeded
                {"id":"a","status":"error"}                                                | other
                {"id":"a"}                                                                 | bad
                {"id":"a","status":null}                                                   | bad
                {"id":"","status":"success"}                                               | bad
                {"status":"success"}                                                       | bad
                {"id":"a","status":"success","outputs":{"text":"tor                        | bad
                {"id":"a","status":"success"                                               | bad
                {"id":"a","st{"id":"b","status":"success"}                                 | bad
                {"id":"a","status":"success"}{"id":"b","status":"success"}                 | bad
                ["a"]                                                                      | bad
                no JSON                                                                    | bad
                \\0\\0\\0                                                                  | bad
                """)
        void successesAreReadAndUnreadableLinesReported(String line, String kind) throws IOException {
            var index = new Index();
            var history = new History(index);
            history.readResults(Files.writeString(folder.resolve("results.jsonl"),
                    line.translateEscapes() + "\r\n\n"), false, List.of());

            assertEquals(kind, history.unreadableLines() > 0 ? "bad" : index.size() == 0 ? "other"
                    : index.status(index.find("a")).word());
        }

        @Test
        void longLinesAreReadAndUnreadableLinesReportedByNumber() throws IOException {
            assertEquals("a b c; 3 5", read(json("\uFEFF{'id':'a','status':'success','outputs':{'t':'"
                    + "ä".repeat(200_000) + "'}}\n\nhalf a li\n\uFEFF{'id':'b','status':'success'}\r\n{}\n"
                    + "{'id':'c','status':'success'}")));
        }

        @Test
        void anUnfinishedLastLineIsIgnored() throws IOException {
            assertEquals("a;", read(json("{'id':'a','status':'success'}\n{'id':'b','st")));
        }

        /// A log could record the success, but results of the original tool have no log.
        @Test
        void anUnreadableLineThatMayBeASuccessPreventsASession() throws IOException {
            var scene = Scene.of(folder, "a", "b");
            Files.writeString(scene.output, json("{'id':'a','status':'success'}\n{'id':'b','sta\n"));

            var problem = assertThrows(Unusable.class, scene::open);

            assertTrue(problem.text().contains(scene.output + ":2)"), problem.text());
        }
    }

    @Nested
    class TheRetryList {
        private BatchFiles files() {
            return BatchFiles.of(folder.resolve("results.jsonl"));
        }

        @Test
        void isReadWithoutByteOrderMarksSpacesOrDuplicates() throws IOException {
            assertEquals(List.of(), files().retryIds());

            Files.writeString(files().retry(), "\uFEFFb\r\na\n\n  c  \nb\n\uFEFFa\nd\uFEFF\n");

            assertEquals(List.of("b", "a", "c", "d\uFEFF"), files().retryIds());
        }

        private static Index index(RowStatus... statuses) {
            var index = new Index();
            for (int row = 0; row < statuses.length; row++)
                index.setStatus(index.add(Character.toString('z' - row), row + 2, 0), statuses[row]);
            index.endOfRows(0);
            return index;
        }

        @Test
        void containsFailedUnknownAndPausedRowsInCsvOrder() throws IOException {
            files().writeRetryList(index(RowStatus.FAILED, RowStatus.SUCCEEDED, RowStatus.UNKNOWN,
                    RowStatus.PENDING, RowStatus.PAUSED, RowStatus.PARTIAL), Duration.ZERO);

            assertEquals("z\nx\nv\n", Files.readString(files().retry()));
        }

        /// A folder cannot be replaced, just as a file that another program has open on Windows.
        @Test
        void doesNotEndTheBatchIfItCannotBeWritten() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.answer = (attempt, _) -> {
                assertDoesNotThrow(() -> Files.createDirectories(scene.file(".retry").resolve("x")));
                return failed("no");
            };

            assertEquals(Optional.empty(), scene.play());

            assertEquals(List.of("a", "b"), scene.ids());
            assertTrue(scene.said.getLast().contains("results.jsonl.retry: "), scene.said::toString);
            Files.delete(scene.file(".retry").resolve("x"));
            Files.delete(scene.file(".retry"));
            scene.answer = (_, _) -> failed("no");
            scene.play();
            assertEquals(List.of("a", "b"), scene.retryIds());
        }

        @Test
        @DisabledOnOs(OS.WINDOWS) // does not replace an open file
        void isReplacedAtomicallyAndDeletedWhenItBecomesEmpty() throws IOException {
            Files.writeString(files().retry(), "old\n");
            try (var reader = Files.newBufferedReader(files().retry())) {
                files().writeRetryList(index(RowStatus.FAILED), Duration.ZERO);

                assertEquals("old", reader.readLine()); // a reader keeps the file it opened
            }
            assertEquals("z\n", Files.readString(files().retry()));

            files().writeRetryList(index(RowStatus.SUCCEEDED), Duration.ZERO);

            try (var left = Files.list(folder)) {
                assertEquals(List.of(), left.toList());
            }
        }
    }

    @Nested
    class TheBatchHistory {
        private History history(Object log) throws IOException {
            return history(log, new Index());
        }

        private History history(Object log, Index index) throws IOException {
            var history = new History(index);
            history.readLog(Files.writeString(folder.resolve("log"), log.toString()), List.of());
            return history;
        }

        private Batch batch(Object log) throws IOException {
            Files.writeString(folder.resolve("results.jsonl.log"), log.toString());
            return Batch.peek(BatchFiles.of(folder.resolve("results.jsonl")), Optional.empty(), false);
        }

        /// Row `a` may have a run, so half an event must not hide it.
        @ParameterizedTest
        @ValueSource(strings = {"garbage", "null",
                "{'event':'attempt','t':'2026-01-16T12:00:00Z','id':'a','user':'u2','mode':'telepathic'}"})
        void anUnreadableLogLineThatMayBeARequestPreventsASession(String line) throws IOException {
            var scene = Scene.of(folder, "a");
            var log = new Log().session("1.16.0").attempt("a", "u1").end("a", "u1", "unknown", "").line(json(line));
            Files.writeString(scene.file(".log"), log.toString());

            var problem = assertThrows(Unusable.class, scene::open);

            assertTrue(problem.text().contains(scene.file(".log") + ":4)"), problem.text());
            assertEquals(log.toString(), Files.readString(scene.file(".log")));
            assertEquals(Set.of(0), history(log).unresolvedByRow().keySet());
        }

        @Test
        void takesTheStatusOfARowFromItsLastOutcome() throws IOException {
            var batch = batch(new Log().attempt("a", "u1").end("a", "u1", "again", "").attempt("a", "u2")
                    .end("a", "u2", "failed", "").attempt("b", "u3").end("b", "u3", "failed", "").attempt("b", "u4")
                    .end("b", "u4", "unknown", "").attempt("c", "u5").end("c", "u5", "throttled", "").attempt("c", "u6")
                    .end("c", "u6", "interrupted", ""));

            assertEquals(List.of(RowStatus.FAILED, RowStatus.UNKNOWN, RowStatus.PENDING),
                    IntStream.range(0, 3).mapToObj(batch.index()::status).toList());
            assertEquals(6, batch.figures().count(AttemptEvent.class));
            assertEquals("no", batch.history().cause(0));
        }

        /// Row `a` lacks two files. Row `b` lacks one, which a later run has.
        @Test
        void countsOnlyTheMissingFilesOfARowsLastSuccess() throws IOException {
            var history = new History(new Index());
            for (var line : List.of(success("a", "u1", "1.txt", "2.txt"), success("b", "u2", "1.txt"),
                    success("b", "u3")))
                history.apply(line);
            history.apply(end(4, "a", "u4", "failed", "", ""));

            assertEquals(Map.of(0, 2), history.figures.missingFiles());
        }

        private static ResultLine success(String id, String user, String... missing) {
            var line = Given.outputs(json("{'id':'%s','status':'success','user':'%s','seconds':1.0}", id, user));
            for (var file : missing) line.withArray("missing").add(file);
            return new ResultLine(line);
        }

        @Test
        void remembersAResponseModeOnlyIfTheToolChoseIt() throws IOException {
            var auto = session(0, "1.16.0").with(NOON, Mode.BLOCKING, true, 0);
            var typed = session(0, "1.16.0").with(NOON, Mode.STREAMING, false, 0);

            assertEquals(Optional.of(Mode.BLOCKING), history(new Log().add(auto).add(typed)).mode);
            assertEquals(Optional.empty(), history(new Log().add(typed)).mode);
        }

        @Test
        void keepsAttemptsWithoutAFinalOutcomeAndTheirRuns() throws IOException {
            var log = new Log();
            for (var outcome : List.of("open", "failed", "unknown", "again", "not_started")) {
                log.attempt(outcome, "u-" + outcome);
                if (outcome.equals("open")) log.run("open", "u-open", "r1");
                else log.end(outcome, "u-" + outcome, outcome, "");
            }
            var index = new Index();
            var history = history(log, index);
            var unresolvedByRow = history.unresolvedByRow();

            assertEquals(Set.of("open", "unknown", "not_started"),
                    unresolvedByRow.keySet().stream().map(index::id).collect(Collectors.toSet()));
            var lookUp = history.lookUp(unresolvedByRow.get(index.find("open")), row("open"), NOON,
                    seconds(300));
            assertEquals(Optional.of(run("r1")), lookUp.run());
            assertEquals("u-open", lookUp.attempt.user());
            assertEquals(Mode.STREAMING, lookUp.attempt.mode());
            assertTrue(lookUp.isOver(NOON.plusSeconds(301)) && !lookUp.isOver(NOON.plusSeconds(299)));
            assertTrue(lookUp.is(Symptom.CRASH));
            assertFalse(lookUp.reason.why().contains("killed"), "the session may have ended by a limit");
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, nullValues = "-", textBlock = """
                outcome, run, late,  awaited
                -,       '',  false, true
                failed,  '',  false, true
                again,   r1,  false, false
                stale,   r1,  false, false
                unknown, r1,  false, false
                resent,  r1,  false, false
                -,       '',  true,  false
                """)
        void tracksAnAttemptAfterAResendUntilItsRunIsFound(String outcome, String run, boolean late,
                boolean awaited) throws IOException {
            var log = new Log().attempt("a", "u1").end("a", "u1", "not_started", "");
            if (outcome != null) log.end("a", "u1", outcome, run);
            log.attempt("a", "u2");
            if (late) log.add(new LateEvent(NOON, "a", "u1", "", ""));

            var history = history(log);
            var row = new Row(0, 2, "a", Map.of("id", "a"));
            assertEquals(awaited ? List.of("u1") : List.of(),
                    history.unresolved(row).stream().map(Attempt::user).toList());
            var attempt = Given.sent(0, row, Tries.NONE, "u1", Mode.STREAMING, "", NOON);
            assertEquals(awaited, history.isReportable(attempt));
            // a crash between both lines loses the report, so the next session makes it
            history.apply(new LookEvent(NOON, "a", "u1", "r9", "succeeded"));
            assertEquals(awaited, history.isReportable(attempt));
            history.apply(new LateEvent(NOON, "a", "u1", "r9", "succeeded"));
            assertFalse(history.isReportable(attempt));
        }

        @ParameterizedTest
        @CsvSource({"running, true", "succeeded, true", "failed, false", "stopped, false"})
        void waitsForTheRunOfAnAttemptBeforeAResendUnlessItHasFailed(String saw, boolean isAwaited)
                throws IOException {
            var history = history(new Log().attempt("a", "u1").end("a", "u1", "not_started", "").attempt("a", "u2")
                    .add(new LookEvent(NOON, "a", "u1", "r9", saw)));

            assertEquals(isAwaited ? List.of("u1") : List.of(), history.unresolved(new Row(0, 2, "a",
                    Map.of("id", "a"))).stream().map(Attempt::user).toList());
        }

        /// Row `a` was sent again as `u2`. Before it is sent once more, `u1` is looked up, in vain.
        @ParameterizedTest
        @CsvSource({"true", "false"})
        void reportsALateRunOfAnAttemptThatBecameUnknownAfterAResend(boolean isLookedUp) throws IOException {
            var log = new Log().attempt("a", "u1").end("a", "u1", "not_started", "").attempt("a", "u2")
                    .end("a", "u2", "not_started", "").end("a", "u1", "unknown", "");
            if (isLookedUp) log.end("a", "u2", "unknown", "");
            var history = history(log.attempt("a", "u3"));

            var row = new Row(0, 2, "a", Map.of("id", "a"));
            assertTrue(history.unresolved(row).stream().map(Attempt::user).anyMatch("u1"::equals));
            assertTrue(history.isReportable(Given.sent(0, row, Tries.NONE, "u1", Mode.BLOCKING, "", NOON)));
        }

        private static List<String> users(History history) {
            return history.awaited().values().stream().flatMap(List::stream).map(one -> one.event.user()).toList();
        }

        @ParameterizedTest(name = "seen {0}, the row then {1}: {2}")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                saw,       outcome,   awaited
                running,   failed,    true
                paused,    failed,    true
                failed,    failed,    false
                succeeded, failed,    true
                partial,   failed,    true
                succeeded, succeeded, false
                running,   succeeded, false
                """)
        void tracksARunFoundAfterAResendUntilItHasFailedOrItsRowSucceeds(String saw, String outcome, boolean awaited)
                throws IOException {
            var log = new Log().attempt("a", "u1").end("a", "u1", "not_started", "").attempt("a", "u2")
                    .add(new LateEvent(NOON, "a", "u1", "r1", saw));
            boolean isSuccess = outcome.equals("succeeded");
            var history = history(isSuccess ? log : log.end("a", "u2", outcome, ""));
            if (isSuccess) history.apply(success("a", "u2"));

            assertEquals(awaited ? List.of("u1") : List.of(), users(history));
        }

        @Test
        void keepsTheTaskIdOfARunIfItsEndEventHasOnlyTheRunId() throws IOException {
            var history = history(new Log().attempt("a", "u").run("a", "u", "r1").end("a", "u", "unknown", "r1"));

            assertEquals(Optional.of(run("r1")), history.unresolvedByRow().get(0).run);
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, nullValues = "-", textBlock = """
                ended,   listing
                -,       NOT_KNOWN
                unknown, NOT_KNOWN
                failed,  FROM_START
                """)
        void remembersTheDifyVersionOnlyForUnresolvedAttempts(String ended, Listing listing) throws IOException {
            var log = new Log().session("1.9.2").attempt("a", "u1");
            // a failed run that no look-up has shown is unresolved, too
            if (ended != null) log.end("a", "u1", ended, ended.equals("failed") ? "" : "r");

            var history = history(log.session("1.14.2").attempt("b", "u2"));
            var route = history.modePolicy(Mode.BLOCKING, AppKind.WORKFLOW, "1.16.0");

            assertEquals(listing, history.listing(sentAs("a", "u1"), route));
            assertEquals(Listing.FROM_START, history.listing(sentAs("b", "u2"), route));
        }

        @Test
        void trustsNoListAboutAnAttemptBeforeASessionOfAnAppThatWasOnlyClaimed() throws IOException {
            var claimed = Json.text(Given.session(2, "1.14.2")).replaceFirst("\"app_hash\"",
                    "\"process\":{\"id\":7,\"started\":\"2026-01-01T00:00:00Z\"},\"same_app\":true,$0");
            var history = history(new Log().session("1.14.2").attempt("a", "u1").line(claimed).attempt("b", "u2"));
            var route = history.modePolicy(Mode.BLOCKING, AppKind.WORKFLOW, "1.14.2");

            assertEquals(Listing.NOT_KNOWN, history.listing(sentAs("a", "u1"), route));
            assertEquals(Listing.FROM_START, history.listing(sentAs("b", "u2"), route));
        }

        /// A row has the tokens and the cost of all its attempts, whichever of them succeeded.
        @Test
        void addsUpTheTokensAndCostOfAllAttemptsOfARow() throws IOException {
            Files.writeString(folder.resolve("results.jsonl"), json("""
                    {'id':'a','status':'success','inputs':{},'outputs':{},'user':'u2','total_tokens':5,\
                    'total_price':'0.25','currency':'USD'}
                    """));
            var end = "{'event':'end','t':'2026-01-16T12:00:05Z','id':'%s','user':'%s','outcome':'failed',"
                    + "'seconds':1,'tokens':7,'price':%s,'currency':'%s'}";

            var history = batch(new Log().session("1.16.0").attempt("a", "u1")
                    .line(json(end.formatted("a", "u1", "0.5", "USD"))).attempt("a", "u2").attempt("b", "u3")
                    .line(json(end.formatted("b", "u3", "2", "RMB"))).attempt("c", "u4")).history();

            assertEquals(List.of(12L, 7L, 0L), IntStream.range(0, 3).mapToObj(history::tokens).toList());
            assertEquals(List.of(0.75, 0.0, 0.0), IntStream.range(0, 3).mapToObj(n -> history.cost(n, "USD")).toList());
            assertEquals(2.0, history.cost(1, "RMB"));
        }

        private static Attempt sentAs(String id, String user) {
            return Given.sent(0, row(id), Tries.NONE, user, Mode.STREAMING, "", NOON);
        }

        @Test
        void countsEditsOfAnAttemptAsLostOnlyIfTheCsvLacksThem() {
            for (var cells : List.of("0123456789abcdef", row("a").hash())) {
                var event = new AttemptEvent(NOON, "a", 0, "u", Mode.BLOCKING, cells, true, 0);

                var attempt = new History.TrackedAttempt(event, "").attempt(row("a"));

                boolean isEdited = !cells.equals(row("a").hash());
                assertEquals(List.of(isEdited, isEdited), List.of(attempt.isEdited(), attempt.isOfLostEdits()));
            }
        }
    }

    @Nested
    class TheBatchLock {
        @Test
        void preventsASecondSessionEvenIfTheLockFileIsDeleted() throws Exception {
            var scene = Scene.of(folder, "a", "b");
            scene.answer = (attempt, _) -> {
                if (attempt.row().id().equals("b")) {
                    assertTrue(scene.file(".lock").toFile().delete());
                    var problem = assertThrows(Unusable.class, scene::open);
                    assertTrue(problem.text().startsWith(scene.output.toString()), problem.text());
                }
                return succeeded("run-" + attempt.row().id());
            };

            assertEquals(Optional.empty(), scene.play());
            assertEquals(2, scene.sent.size());
        }

        @Test
        void isSharedByHardLinksWhileSymbolicLinksAreRejected() throws IOException {
            var scene = Scene.of(folder, "a");
            Files.createFile(scene.output);
            var link = WholeCommand.link(folder.resolve("link.jsonl"), scene.output);
            Files.createLink(folder.resolve("other.jsonl"), scene.output);

            assertThrows(Unusable.class, () -> BatchFiles.of(link));
            try (var _ = scene.open()) {
                assertThrows(Unusable.class, () -> open("other.jsonl"));
            }
            open("other.jsonl").close();
        }

        private BatchWriter open(String results) {
            var rows = Batch.ofRows(BatchFiles.of(folder.resolve(results)), Csv.open(folder.resolve("data.csv"),
                    Csv.Shape.DEFAULT));
            return BatchWriter.open(rows, new BatchWriter.OpenOptions(false, false, null), (_, _) -> {});
        }

        @ParameterizedTest
        @CsvSource({"'', false", "keep me, true"})
        void anUnusedLockFileIsDeletedUnlessItContainsText(String text, boolean stays) throws IOException {
            var files = BatchFiles.of(folder.resolve("results.1-of-2.jsonl"));
            Files.writeString(files.lock(), text); // left by a killed session

            files.acquire().close();

            assertEquals(stays, Files.exists(files.lock()));
            if (stays) assertEquals(text, Files.readString(files.lock()));
        }

        @Test
        void isReleasedIfTheBatchIsRejected() throws IOException {
            var scene = Scene.of(folder, "a");
            Files.writeString(scene.file(".log"),
                    json("{'event':'session','t':'2030-01-01T00:00:00Z','format':9,'tool':'difyexec 9.9'}\n"));
            assertThrows(Unusable.class, scene::open);

            BatchFiles.of(scene.output).acquire().close();
        }
    }

    @Nested
    class ABatch {
        private static final Attempt ATTEMPT = Given.sent(1, row("a"), Tries.NONE, "u1", Mode.BLOCKING, "", NOON);

        @Test
        void buffersResultsUntilTheyAreLarge() throws Exception {
            var scene = Scene.of(folder, "a");
            try (var writer = scene.open()) {
                writer.recordSuccess(success("x".repeat(1_000)));
                assertFalse(Files.exists(scene.output));

                writer.recordSuccess(success("x".repeat(100_000)));

                assertTrue(Files.size(scene.output) > 101_000);
            }
        }

        private static ResultLine success(String text) {
            var ran = new Response.Ran(run("run-1"), RunStatus.SUCCEEDED, outputs(json("{'text':'" + text + "'}")),
                    "", "workflow-1", Usage.NONE);
            return ResultLine.of(ATTEMPT, ran, NOON);
        }

        @Test
        void doesNotResendARowIfDifyHasDeletedItsLostResult() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.play();
            Files.delete(scene.output);
            scene.sent.clear();
            scene.world.startAt(Instant.now().plusSeconds(1)); // lost results are looked up from now on

            scene.play();

            assertEquals(List.of(), scene.ids());
            assertEquals("unknown", scene.outcomes("a").getLast());
            assertEquals(List.of("a"), scene.retryIds());
        }

        @ParameterizedTest
        @CsvSource({"'', replace", "'', cut", "'', delete", ".log, replace", ".log, cut"})
        void stopsSendingRowsIfAnotherProgramChangesItsFiles(String name, String how) throws Exception {
            assumeTrue(Platform.HERE == Platform.UNIX || how.equals("cut"), "Windows refuses to change the file");
            var scene = Scene.of(folder, "a", "b", "c");
            scene.answer = (attempt, _) -> {
                if (attempt.row().id().equals("b")) change(scene.file(name), how);
                return succeeded("run-" + attempt.row().id());
            };

            var stop = scene.play().orElseThrow();

            assertEquals(Exit.STOPPED, stop.exit());
            assertTrue(stop.text().contains(scene.file(name).toString()), stop.text());
            assertEquals(List.of("a", "b"), scene.ids());
        }

        /// `replace` saves the file as an editor does.
        private static void change(Path file, String how) {
            try {
                if (how.equals("cut")) Files.write(file, Arrays.copyOf(Files.readAllBytes(file), 30));
                else if (how.equals("delete")) Files.delete(file);
                else Files.move(Files.copy(file, file.resolveSibling("copy")), file,
                        StandardCopyOption.REPLACE_EXISTING);
            } catch (IOException problem) {
                throw new UncheckedIOException(problem);
            }
        }

        @Test
        void countsEventsOnlyAfterTheyAreWritten() throws IOException {
            try (var writer = Scene.of(folder, "a").open()) {
                writer.record(AttemptEvent.of(ATTEMPT, 0));
                assertEquals(0, writer.batch.history().inFlight());

                writer.write();
                assertEquals(1, writer.batch.history().inFlight());

                writer.recordEnd(EndEvent.of(ATTEMPT, NOON, "failed", new Response.Cut(Symptom.CUT, ""), "no", 0));
                assertEquals(RowStatus.PENDING, writer.status(ATTEMPT.row()));
                writer.write();
                assertEquals(RowStatus.FAILED, writer.status(ATTEMPT.row()));
                assertEquals(0, writer.batch.history().inFlight());
                assertEquals("no", writer.batch.history().cause(0));
            }
        }

        @Test
        void keepsARowPendingIfItsResultCannotBeWritten() throws IOException {
            var scene = Scene.of(folder, "a");
            try (var writer = scene.open()) {
                writer.record(AttemptEvent.of(ATTEMPT, 0));
                writer.write();
                Files.createDirectory(scene.output); // so that no line can be written
                writer.recordSuccess(success("x"));

                var problem = assertThrows(UncheckedIOException.class, writer::write);

                assertTrue(problem.getMessage().contains(scene.output.toString()), problem.getMessage());
                assertEquals(RowStatus.PENDING, writer.status(ATTEMPT.row()));
            }
        }

        @Test
        void repeatsARowChangedSinceItsSuccessOnlyOnRequest() throws Exception {
            new Scene(folder, "id,text\na,old\nb,same\n").play();
            var scene = new Scene(folder, "id,text\na,new\nb,same\n");

            assertEquals(List.of(), selected(scene, Batch.Selection.PENDING, _ -> {}));
            var selection = Batch.Selection.PENDING.with(Batch.Selection.Choice.RERUN_CHANGED, true);
            assertEquals(List.of("a"), selected(scene, selection, _ -> {}));
        }

        private List<String> selected(Scene scene, Batch.Selection selection, Consumer<Work.RowOptions> set)
                throws IOException {
            var options = new Work.RowOptions();
            set.accept(options);
            try (var writer = scene.open()) {
                var ids = new ArrayList<String>();
                var wanted = writer.batch.select(options.applyTo(selection));
                writer.batch.rows(wanted.fresh()::get).forEachRemaining(row -> ids.add(row.id()));
                return ids;
            }
        }

        @Test
        void selectsRowsByOptionsAndStatus() throws Exception {
            var scene = Scene.of(folder, "a", "b", "c", "d", "e");
            scene.answer = Answer.byRow(Map.of("b", List.of(failed("no")),
                    "d", List.of(ran("run-d", Response.RunStatus.FAILED, "no")), "e", List.of(THROTTLED)));
            scene.interruptAfter(Duration.ofMillis(100));
            scene.backoff = new Backoff(seconds(60), seconds(60), 0);
            scene.play(); // a and c succeed, b and d fail, e is pending
            var pending = Batch.Selection.PENDING;

            assertEquals(List.of("b", "d", "e"), selected(scene, pending, _ -> {}));
            assertEquals(List.of("b", "d"), selected(scene, Batch.Selection.LISTED, _ -> {}));
            assertEquals(List.of("b", "d"), selected(scene, pending, options -> options.limit = 2L));
            assertEquals(List.of("b", "d", "e"), selected(scene, pending, options -> options.limit = 9L));
            assertEquals(List.of("d", "e"), selected(scene, pending.withIds(List.of("e", "d", "a")), _ -> {}));
            var named = Batch.Selection.named(List.of("d"), false);
            assertEquals(List.of("d"), selected(scene, named, _ -> {}));
            var forced = Batch.Selection.named(List.of("d", "a"), true);
            assertEquals(List.of("a", "d"), selected(scene, forced, _ -> {}));
        }

        @Test
        void rejectsAnInvalidSelectionOfRows() throws Exception {
            var scene = Scene.of(folder, "a");
            scene.play();

            assertRejected("--again", scene, Batch.Selection.named(List.of("a"), false), _ -> {});
            assertRejected("\"z\"", scene, Batch.Selection.named(List.of("z"), false), _ -> {});
            assertRejected("--ids: ", scene, Batch.Selection.PENDING.withIds(List.of("z")), _ -> {});
        }

        private void assertRejected(String fact, Scene scene, Batch.Selection selection,
                Consumer<Work.RowOptions> set) {
            var problem = assertThrows(Unusable.class, () -> selected(scene, selection, set));
            assertTrue(problem.text().contains(fact), problem.text());
        }
    }

    @Nested
    class AnUnfinishedLastLine {
        private static Optional<TornEvent> repair(Path path) throws IOException {
            try (var file = new LineFile(path, new byte[0], FileChannel::force)) {
                return file.repair();
            }
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, quoteCharacter = '`', delimiter = '|', textBlock = """
                whole lines              | last    | cut
                {"a":1}\\n{"b":2}\\n     | ``      | false
                ``                       | ``      | false
                \\n                      | ``      | false
                {"a":1}\\n               | {"b":2} | false
                \uFEFF                   | {"a":1} | false
                ``                       | \uFEFF  | false
                {"a":1}\\n               | {"b":"tö | true
                {"a":1}\\n               | {       | true
                ``                       | {"a":   | true
                """)
        void isRemovedUnlessItsJsonIsComplete(String whole, String last, boolean cut) throws IOException {
            whole = whole.translateEscapes();
            var path = Files.writeString(folder.resolve("file"), whole + last);

            var torn = repair(path);

            var end = last.endsWith("}") ? "\n" : "";
            assertEquals(cut ? whole : whole + last + end, Files.readString(path));
            assertEquals(cut ? Optional.of(List.of("file", (long) whole.length(), (long) last.getBytes(UTF_8).length))
                    : Optional.empty(), torn.map(event -> List.of(event.file(), event.at(), event.bytes())));
        }

        @Test
        void isRemovedCompletelyEvenIfItIsLong() throws IOException {
            var first = "{\"a\":\"" + "x".repeat(200_000) + "\"}\n";
            var path = Files.writeString(folder.resolve("file"), first + "{\"b\":\"" + "\0".repeat(150_000));

            assertEquals(150_006, repair(path).orElseThrow().bytes());

            assertEquals(first, Files.readString(path));
        }
    }
}

package difyexec;

import org.junit.jupiter.api.*;
import org.junit.jupiter.api.condition.*;
import org.junit.jupiter.api.parallel.*;
import org.junit.jupiter.params.*;
import org.junit.jupiter.params.provider.*;
import org.jline.reader.Candidate;
import org.jline.reader.LineReaderBuilder;
import org.jline.reader.Parser;
import org.jline.terminal.impl.DumbTerminal;

import module java.base;

import static difyexec.DifyExec.*;
import static org.junit.jupiter.api.Assertions.*;

/// The shell: its words, its commands on an open batch, scripts, crashes, and a real terminal.
final class ShellTest extends WholeCommand {
    /// Has five rows, two of which fail in the demo.
    static final String FIVE = """
            id,text,tone
            r-1,Good morning,formal
            r-2,[fail] The parcel came late,formal
            r-3,Thank you for the fast delivery,plain
            r-4,[fail] Wrong size,plain
            r-5,See you soon,formal
            """;

    /// Runs a shell in this process: it takes a line and returns its output.
    private static final class Session {
        final ShellSession session;
        private final StringWriter shown = new StringWriter();

        Session(Map<String, String> settings, String... args) {
            var outer = commandLine(Given.env(settings));
            var both = new PrintWriter(shown, true);
            outer.setOut(both).setErr(both);
            outer.parseArgs(Stream.concat(Stream.of("shell"), Stream.of(args)).toArray(String[]::new));
            Shell shell = outer.getSubcommands().get("shell").getCommand();
            session = shell.session();
        }

        Call say(String text) {
            shown.getBuffer().setLength(0);
            int code = session.execute(text);
            assertFalse(shown.toString().contains("\033"), shown::toString);
            assertFalse(shown.toString().contains(KEY), shown::toString);
            return new Call(code, shown.toString(), "");
        }

        Call ok(String text) {
            return say(text).exits(0);
        }

        /// Checks that a command is refused with one line of error.
        Call refused(String text) {
            var shown = say(text).exits(2);
            assertEquals(1, shown.out().lines().filter(line -> !line.startsWith("hint: ")).count(), shown::toString);
            return shown;
        }

        void hasNoEdits() {
            assertEquals("No edits.\n", ok("edits").out());
        }

        /// Returns the proposals at the end of a line. JLine drops those that do not start with the word there.
        List<String> completed(String line) throws IOException {
            var candidates = new ArrayList<Candidate>();
            var parsed = Shell.parser(Platform.HERE).parse(line, line.length(), Parser.ParseContext.COMPLETE);
            try (var terminal = new DumbTerminal(InputStream.nullInputStream(), OutputStream.nullOutputStream())) {
                var reader = LineReaderBuilder.builder().terminal(terminal).build();
                new Shell.Completion(session).complete(reader, parsed, candidates);
            }
            return candidates.stream().map(Candidate::value).filter(value -> value.startsWith(parsed.word())).toList();
        }
    }

    /// Opens five rows after their first run in the demo.
    private Session five() throws IOException {
        Files.writeString(file("data.csv"), FIVE);
        call(Map.of(), typed("run", "--demo")).exits(3);
        return reopened();
    }

    private Session reopened(String... more) {
        return new Session(Map.of(), words(List.of("--demo", "-i", input(), "-o", output()), more));
    }

    private Session session(Simulated dify) {
        return new Session(dify.settings(), "-i", input(), "-o", output());
    }

    private String[] shell(String... more) {
        return words(List.of("shell", "-i", input(), "-o", output()), more);
    }

    // ── Words ───────────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class AShellLine {
        @ParameterizedTest(name = "{0}")
        @CsvSource(delimiter = '|', quoteCharacter = '~', useHeadersInDisplayName = true, textBlock = """
                line                      | words
                show r-1                  | show·r-1
                set 1 text="two words"    | set·1·text=two words
                set 1 text='a "b" \\\\c'  | set·1·text=a "b" \\c
                set 1 text="a \\"b\\""  | set·1·text=a "b"
                set 1 text=""             | set·1·text=
                set 1 text=C# x="#"       | set·1·text=C#·x=#
                show a\\ b                | show·a b
                # a remark                | ~~
                """)
        void isSplitIntoWordsAsInASystemShell(String line, String words) {
            assertEquals(words == null ? "" : words, String.join("·", Shell.words(line, Platform.UNIX).orElseThrow()));
        }

        @ParameterizedTest
        @CsvSource(delimiter = '|', quoteCharacter = '~', useHeadersInDisplayName = true, textBlock = """
                line                       | words
                export C:\\t\\out.csv      | export·C:\\t\\out.csv
                open "C:\\my files\\a.csv"  | open·C:\\my files\\a.csv
                save C:\\t\\               | save·C:\\t\\
                set 1 text="C:\\t\\" n=2   | set·1·text=C:\\t\\·n=2
                set 1 text='a "b" \\c'    | set·1·text=a "b" \\c
                """)
        void keepsItsBackslashesOnWindows(String line, String words) {
            assertEquals(words, String.join("·", Shell.words(line, Platform.WINDOWS).orElseThrow()));
        }

        /// Java reads bytes that are no UTF-8 as this character.
        @Test
        void isRejectedIfItIsNotUtf8() {
            var session = new Session(Map.of(), "--demo");
            session.refused("set 1 text=M\uFFFDller").shows("UTF-8");
        }

        @Test
        void continuesUntilItsQuoteIsClosed() {
            assertEquals(Optional.empty(), Shell.words("set 1 text=\"first", Platform.HERE));
            assertEquals(List.of("set", "1", "text=first\nsecond"),
                    Shell.words("set 1 text=\"first\nsecond\"", Platform.HERE).orElseThrow());
            assertEquals(Optional.of(List.of()), Shell.words("# it's", Platform.HERE));
            assertEquals(Optional.of(List.of()), Shell.words("  # it's", Platform.HERE));
        }
    }

    // ── Story ───────────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class TheShellTranscript {
        private static final List<String> LINES = List.of("failures", "show r-2",
                "set r-2 text=\"The parcel came late\"", "retry r-2");

        /// Leaves out everything that differs from run to run: times, run ids, the folder.
        private String steady(String text) {
            return text.replace(folder + File.separator, "").replaceAll("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
                    "RUN")
                    .replaceAll("\\d{4}-\\d\\d-\\d\\d \\d\\d:\\d\\d:\\d\\d( [+-]\\d\\d:\\d\\d)?", "TIME")
                    .replaceAll(" +\\d+(\\.\\d+)? s\\b", " 0 s").replaceAll("\\d+\\.\\d rows/s", "0.0 rows/s");
        }

        @Test
        void matchesItsGoldenFile() throws IOException {
            var session = five();
            var transcript = new StringBuilder();

            for (var line : LINES) {
                transcript.append(session.session.prompt()).append(line).append('\n');
                transcript.append(session.say(line).out());
            }
            transcript.append(session.session.prompt().strip()).append('\n');

            var steady = steady(transcript.toString());
            Given.Golden.check("shell-story.txt", steady);
            if (Boolean.getBoolean("golden.update")) Files.writeString(Path.of(System.getProperty("story.to",
                    path("story"))), transcript.toString().replace(folder + File.separator, ""));
        }

        @Test
        void matchesTheTranscriptInTheDocs() throws IOException {
            var page = Files.readString(WholeCommand.checkout().resolve("docs/shell.md"));
            var block = Pattern.compile("(?s)```\n(results\\.jsonl \\(2 failed\\) dify> .*?)```").matcher(page);

            assertTrue(block.find(), "no transcript in docs/shell.md");
            assertEquals(Given.Golden.read("shell-story.txt"), steady(block.group(1)));
        }
    }

    // ── Commands ────────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class AShellCommand {
        @Test
        void isRejectedWithTheReasonIfInvalid() throws IOException {
            var session = five();

            for (var line : List.of("show r-22", "retry r-22")) session.refused(line).shows("r-2");
            session.refused("set r-2 txt=x").shows("\"txt\"\nhint: did you mean \"text\"?");
            session.refused("set r-2 text").shows("COLUMN=VALUE");
            session.refused("set r-2 text=two words").shows("\nhint: ", "\"two words\"");
            session.refused("set text=x").shows("missing COLUMN=VALUE\nhint: type set ROWS COLUMN=VALUE");
            session.refused("set r-2 id=r-9").shows("id");
            session.refused("set r-2 text=\"two").shows("quote");
            session.refused("unset r-2").shows("no edits");
            session.say("retry r-1").exits(2);
            for (var line : List.of("run -i other.csv", "retry -o " + file("other.jsonl")))
                session.refused(line).shows("'open FILE JSONL'");
            session.refused("shwo r-1").shows("shwo");
        }

        @Test
        void inheritsNoOptionOfThePreviousCommand() throws IOException {
            var session = five();
            session.say("run --fresh --limit 1 --progress off");

            session.say("run --progress off").omits("Moved ").shows("\nThis session: 2 succeeded, 2 failed in ", "\nBatch: 3 succeeded, 2 failed\n");
        }

        @Test
        void usesTheVariablesGivenWhenTheShellWasStarted() throws IOException {
            csv("id", "1");
            var session = reopened("--var", "text=a,b=c", "--var", "tone=plain");

            session.ok("run --progress off");

            assertEquals("{\"text\":\"a,b=c\",\"tone\":\"plain\"}",
                    events("session").getFirst().path("choices").path("vars").toString());
        }

        @Test
        void showPrintsTheRunIdOfAnUnfinishedAttempt() throws IOException {
            csv("id", "a");
            Files.writeString(file("results.jsonl.log"), new Given.Log().session("1.14.2").attempt("a", "u")
                    .run("a", "u", "r1").toString());

            reopened().ok("show a").shows("streaming  unfinished, run r1\n");
        }

        @Test
        void isRejectedWithAHintIfNoBatchIsOpen() {
            var session = new Session(Map.of());

            assertEquals("dify> ", session.session.prompt());
            session.refused("failures").shows("\nhint: 'open FILE JSONL'");
            assertTrue(session.ok("help").out().matches(
                    "(?s)Usage: dify> COMMAND\n.*\n  failures .*\n  show .*\n  retry .*\n  set .*\n  exit.*"));
            session.ok("help open").shows("dify> open");
            session.ok("help save").shows("--force");
            session.refused("faliures").shows("failures");
            session.refused("open a b --forec").shows("--forec");
        }

        @Test
        void worksOnTheOpenBatchWithoutFileArguments() throws IOException {
            Files.writeString(file("data.csv"), FIVE);
            var session = new Session(Map.of(), "--demo");

            session.ok("open " + input() + " " + output()).shows("5 rows, 5 pending");
            session.say("run --progress off").exits(3);
            for (var command : List.of("open", "save", "run", "help"))
                assertEquals(0, session.say(command + " --help-all").code(), command);
            assertEquals("results.jsonl (2 failed) dify> ", session.session.prompt());
            var log = content("results.jsonl.log");
            Files.writeString(file("results.jsonl.log"), log.replaceFirst(
                    "(\"event\":\"end\"[^\n]*\"r-4\"[^\n]*\"outcome\":)\"failed\"", "$1\"unknown\""));
            assertEquals("results.jsonl (1 failed, 1 unknown) dify> ", session.session.prompt());
            Files.writeString(file("results.jsonl.log"), log);
            session.say("status").exits(3);
            session.ok("check").omits("Next:");
            session.ok("set r-2 text=better");
            session.ok("retry r-2 --progress off");
            assertEquals("better", result("r-2").path("inputs").path("text").asText());
            session.say("retry --progress off").exits(3);
        }

        @ParameterizedTest
        @ValueSource(strings = {"", ".log", ".retry"})
        void isRejectedForFilesOfOtherProgramsAndLeavesThemUnchanged(String suffix) throws IOException {
            Files.writeString(file("data.csv"), FIVE);
            var session = reopened();
            Files.writeString(file("results.jsonl" + suffix), "keep me");

            for (var line : List.of("open " + file("data.csv") + " " + file("results.jsonl"), "run", "retry r-1",
                    "status", "failures", "save " + file("fixed.csv"))) {
                session.say(line).exits(2).shows("difyexec: " + path("results.jsonl" + suffix) + ": ");
            }

            assertEquals("keep me", content("results.jsonl" + suffix));
            assertEquals(Set.of("data.csv", "results.jsonl" + suffix), names());
        }

        /// A prompt reads a batch again whose files have changed. Rows of JSON are read from a copy.
        @Test
        void keepsOneCopyOfTheInputOpenWhileTheBatchIsRejected() throws IOException {
            var text = UUID.randomUUID().toString();
            Files.writeString(file("data.jsonl"), "{\"id\":1,\"text\":\"" + text + "\"}\n");
            var session = new Session(Map.of(), "--demo", "-i", path("data.jsonl"), "-o", output());
            Files.writeString(file("results.jsonl"), "keep me");

            for (int prompts = 0; prompts < 10; prompts++) assertTrue(session.session.prompt().contains("?"));
            session.refused("open " + path("data.jsonl") + " " + output());
            session.refused("open " + path("data.jsonl") + " /proc/self/mem"); // cannot be read at its beginning

            assertEquals(1, openFilesWith(text));
        }

        @Test
        void retryIsRejectedWhileAnotherProcessWritesToTheBatch() throws IOException {
            var session = five();
            try (var _ = BatchFiles.of(file("results.jsonl")).acquire()) {
                session.say("retry r-2").shows("results.jsonl.lock");
                session.ok("failures").shows("r-2");
            }
            session.ok("set r-2 text=x");
            session.ok("retry r-2");
        }

        @Test
        void failuresListsTheFailedRowsThatMatchAnIdOrKeyword() throws IOException {
            var session = five();

            assertTrue(session.ok("failures").out().matches("(?s).*r-2 +Run failed.*r-4 +Run failed.*"));
            session.ok("failures r-4").omits("r-2");
            assertEquals(2, session.ok("failures RUN").out().lines().count());
            session.ok("failures nix").omits("r-");
        }
    }

    @Nested
    class AShellEdit {
        @Test
        void isShownAsADiffUntilItIsUndone() throws IOException {
            var session = five();

            session.ok("set r-2 text=\"a\nb\" tone=plain").shows("- [fail] The parcel came late\n  + a\n  + b");
            session.ok("edits").shows("2 edits in 1 row");
            session.ok("show r-2").shows("tone (edited): plain");
            session.ok("set r-2 text=\"[fail] The parcel came late\"");
            session.ok("edits").shows("1 edit in 1 row");
            session.ok("unset r-2");
            session.hasNoEdits();
        }

        @Test
        void isShownWithTheNumberOfRowsIfItChangesSeveralRows() throws IOException {
            var session = five();

            var failed = session.ok("set failed text=fine tone=plain").out();
            assertTrue(failed.matches("(?s)r-2\n.*r-4\n.*2 of 2 rows.*"), failed);
            session.ok("edits").shows("3 edits in 2 rows");
            var listed = session.ok("set r-1,r-3 text=better").out();
            assertTrue(listed.matches("(?s)r-1\n.*r-3\n.*2 of 2 rows.*"), listed);
            session.ok("set r-1,r-2,r-3 text=better").shows("1 of 3 rows");
            session.ok("unset failed");
            session.ok("edits").shows("2 edits in 2 rows");
            session.ok("unset r-3,r-2,r-1");
            session.hasNoEdits();
        }

        @Test
        void changesNothingIfOneOfItsRowsDoesNotExist() throws IOException {
            var session = five();

            for (var ids : List.of("r-1,r-22,r-3", "r-1,", "faild", "all"))
                session.refused("set " + ids + " text=better").shows("no row ");

            session.hasNoEdits();
        }

        @Test
        void prefersAnExactIdToAKeyword() throws IOException {
            csv("id,text", "failed,a", "\"x,y\",b", "x,c", "y,d");
            var session = reopened();

            session.ok("set failed text=new").shows("- a\n");
            session.ok("set x,y text=new").shows("- b\n");
            session.ok("edits").shows("2 edits in 2 rows");
            Files.writeString(file("data.csv"), FIVE);
            reopened().refused("set failed text=new").shows("failed");
        }

        /// Opens a session with these variables for the editor, which is called with the file as its last word.
        private Session withEditor(Map<String, String> editors) throws IOException {
            five();
            return new Session(editors, "--demo", "-i", input(), "-o", output());
        }

        @Test
        @DisabledOnOs(OS.WINDOWS) // these editors are for sh
        void canBeMadeInAnExternalEditor() throws IOException {
            var session = withEditor(Map.of("EDITOR", "sed -i 's/late/soon/'"));
            var visual = withEditor(Map.of("EDITOR", "false", "VISUAL", "printf 'two\\nlines\\n' >"));
            var unchanged = withEditor(Map.of("VISUAL", " ", "EDITOR", "true"));

            session.ok("edit r-2 text").shows("- [fail] The parcel came late\n  + [fail] The parcel came soon\n");
            session.ok("edit r-2 text").shows("+ [fail] The parcel came soon\n");
            visual.ok("edit r-2 text");
            visual.ok("save " + file("fixed.csv"));
            assertTrue(content("fixed.csv").contains("r-2,\"two\nlines\",formal"));
            unchanged.ok("edit r-2 text");
            unchanged.hasNoEdits();
        }

        @ParameterizedTest
        @DisabledOnOs(OS.WINDOWS) // these editors are for sh
        @CsvSource(textBlock = """
                false,                   exit code 1,   UTF-8
                no-such-editor-here,     exit code 127, UTF-8
                rm,                      no such file,  UTF-8
                printf '\\377' >,      UTF-8,         Input length
                """, quoteCharacter = '`')
        void isNotMadeIfTheEditorFails(String editor, String fact, String omitted) throws IOException {
            var session = withEditor(Map.of("EDITOR", editor));

            session.refused("edit r-2 text").shows(fact).omits(omitted);
            for (var line : List.of("edit r-2 txt", "edit r-2 id", "edit r-22 text", "edit failed text", "unset r-2"))
                session.refused(line).shows("\nhint: ");

            session.hasNoEdits();
        }

        @Test
        void leavesTheRestOfTheSavedCsvUnchanged() throws IOException {
            var session = five();
            session.ok("set r-4 text='a \"quote\", and\nanother line'");

            session.ok("save " + file("fixed.csv"));
            assertEquals(FIVE.replace("[fail] Wrong size", "\"a \"\"quote\"\", and\nanother line\""),
                    content("fixed.csv").replace("\r\n", "\n"));
            for (var name : List.of("fixed.csv", "data.csv"))
                session.refused("save " + file(name)).shows("--force");
            assertEquals(FIVE, content("data.csv"));

            session.ok("save --force " + file("data.csv"));
            assertEquals(content("fixed.csv"), content("data.csv"));
            session.hasNoEdits();
        }

        @ParameterizedTest
        @CsvSource({"--skip-rows, 1", "--quote, none"})
        void isNotSavedToAFileThatTheBatchWouldReadDifferently(String option, String value) throws IOException {
            Files.writeString(file("data.csv"), FIVE);
            var session = reopened(option, value);
            session.ok("set r-2 text=better");

            session.refused("save " + file("fixed.csv")).shows(option);
            assertFalse(Files.exists(file("fixed.csv")));
        }

        @Test
        void isNotSavedToAnInvalidPathOrAFileOfTheBatch() throws IOException {
            Files.writeString(file("data.csv"), FIVE);
            var session = reopened();

            for (var name : List.of("results.jsonl", "results.jsonl.log", "results.jsonl.retry"))
                session.refused("save --force " + file(name)).shows(path(name));
            if (Platform.HERE == Platform.UNIX) session.refused("save --force /dev/null").shows("/dev/null: ");
            session.refused("save -").shows("difyexec: -: ");

            assertEquals(Set.of("data.csv"), names());
        }

        @ParameterizedTest
        @ValueSource(strings = {"\uFEFFid;text\r\n1;\"a, b\"\r\n2;c\r\n", "id,text,\"a\nb\"\r\n1,a,\r\n2,c,\r\n",
                "\uFEFFsep=|\r\nid|text\r\n1|a\r\n2|c\r\n"})
        void keepsTheByteOrderMarkAndDelimiterOfTheCsv(String text) throws IOException {
            Files.writeString(file("data.csv"), text);
            var session = reopened();
            session.ok("set 2 text=d");

            session.ok("save " + file("fixed.csv"));

            assertEquals(text.replace('c', 'd'), content("fixed.csv"));
        }

        @ParameterizedTest
        @ValueSource(strings = {"jsonl", "json", "xlsx", "renamed"})
        void isSavedAsCsvIfTheInputIsNoCsv(String type) throws IOException {
            var json = "{\"id\":1,\"text\":\"a\"}%s\n{\"id\":2,\"text\":\"c, d\",\"n\":[1,\"x\"]}";
            var data = file("data." + type);
            if (type.equals("xlsx")) Files.write(data, FormatsTest.book("s:id|s:text|s:n", "n:1|s:a", "n:2|s:c|s:[1]"));
            else Files.writeString(data, type.equals("json") ? "[" + json.formatted(",") + "]" : json.formatted(""));
            var before = contents();
            var session = new Session(Map.of(), "--demo", "-i", data.toString(), "-o", output());
            session.ok("set 2 text='c, \"d\"'");

            for (var name : List.of(data.toString(), path("other.jsonl"), path("other.xlsx")))
                session.refused("save --force " + name).shows(name);
            assertEquals(before, contents());
            session.ok("save " + file("fixed.csv"));

            assertEquals("id,text,n\n1,a,\n2,\"c, \"\"d\"\"\"," + (type.equals("xlsx") ? "[1]" : "\"[1,\"\"x\"\"]\"") + "\n",
                    content("fixed.csv").replace("\r", ""));
        }

        /// The log names the line of the column names, which later sessions read from the saved file.
        @Test
        void keepsTheLineOfTheColumnNamesBelowATitle() throws IOException {
            Files.writeString(file("data.csv"), "Orders\n\nid,text\n1,a\n2,c\n");
            var session = reopened("--header-row", "3");
            session.ok("set 2 text=d");

            session.ok("save " + file("fixed.csv"));

            assertEquals("\n\nid,text\n1,a\n2,d\n", content("fixed.csv").replace("\r", ""));
        }

        @Test
        void isSavedOnlyIfTheEncodingOfTheCsvCanRepresentIt() throws IOException {
            var shiftJis = java.nio.charset.Charset.forName("Shift_JIS");
            Files.writeString(file("data.csv"), "id,text\r\n1,\u5c0f\u5305\r\n2,b\r\n", shiftJis);
            Files.writeString(file("fixed.csv.tmp"), "of somebody");
            var session = reopened("--encoding", "Shift_JIS");
            session.ok("set 2 \"text=fine \ud83d\ude00\"");

            session.refused("save " + file("fixed.csv")).shows("Shift_JIS cannot encode \"\ud83d\ude00\"");
            assertFalse(Files.exists(file("fixed.csv")));
            session.ok("set 2 text=\u7d42");
            session.ok("save " + file("fixed.csv"));

            assertEquals("id,text\r\n1,\u5c0f\u5305\r\n2,\u7d42\r\n", Files.readString(file("fixed.csv"), shiftJis));
            assertEquals("of somebody", content("fixed.csv.tmp"));
        }

        @Test
        void isKeptWhenTheCsvChanges() throws IOException {
            var session = five();
            session.ok("set r-2 text=better");
            Files.writeString(file("data.csv"), FIVE.replace(",tone", "").replaceAll(",(formal|plain)", "")
                    + "r-6,new\n");

            session.ok("show r-6").shows("new");
            session.ok("edits").shows("+ better");
            session.ok("retry r-2 --keep-changed");
            assertEquals("better", result("r-2").path("inputs").path("text").asText());

            Files.writeString(file("data.csv"), "id,id\n");
            session.refused("failures").shows("data.csv");
            assertEquals("results.jsonl (?) dify> ", session.session.prompt());
        }

        @Test
        void isDiscardedByOpeningAnotherBatchOnlyOnRequest() throws IOException {
            var session = five();
            session.ok("set r-2 text=better");
            Files.writeString(file("other.csv"), "id\n1\n");

            var open = "open " + file("other.csv") + " " + file("other.jsonl");
            session.refused(open).shows("1 edit in 1 row");
            session.ok(open + " --discard-edits");
            session.hasNoEdits();
            session = five();
            session.ok("set r-2 text=better");
            session.ok("save " + file("fixed.csv"));
            session.ok(open);
        }

        @Test
        void isNotSentIfItsValueIsNotAnOptionOfTheSelectField() throws IOException {
            var dify = new Simulated();
            dify.form("[{'select':{'variable':'tone','options':['formal','very plain']}},{'number':{'variable':'n'}}]");
            csv("id,tone,n", "1,formal,many");
            var session = session(dify);

            session.ok("set 1 tone=formel n=4");
            session.say("retry 1").exits(2).shows("\"formal\", \"very plain\"");
        }

        @Test
        void isNotRunAgainByRerunChanged() throws IOException {
            var session = five();
            session.ok("set r-2 text=better");
            session.ok("retry r-2");
            session.ok("set r-4 text=good");
            session.ok("retry --progress off");
            assertTrue(result("r-4").path("edited").asBoolean());
            reopened().ok("show r-2").shows("  text: better\n", "  text (now): [fail] The parcel came late\n");

            for (var session2 : List.of(session, reopened())) {
                session2.ok("run --rerun-changed --progress off").omits("changed", "succeeded in ");
            }
            // the export has the inputs that were sent, and names the columns that the CSV lacks
            ofBatch("export", path("out.csv")).exits(0);
            assertEquals(List.of("r-2,better", "r-4,good"), content("out.csv").lines().map(line ->
                    line.split(",", -1)).filter(cells -> cells[cells.length - 1].equals("text"))
                    .map(cells -> cells[0] + "," + cells[1]).toList());
            session.ok("save --force " + file("data.csv"));
            session.ok("run").omits("changed");
        }
    }

    @Nested
    class AShellRetry {
        private static final String SET = "set 1 text=better\n", RETRY = "retry 1\n";

        @Test
        void showsTheNodesAndTextOfARunAndRecordsTheRun() throws IOException {
            var session = five();
            session.ok("set r-2 text=\"Just this once\"");

            var shown = session.ok("retry r-2").shows("llm …", "| Demo answer to: Just this once");

            assertTrue(shown.out().matches("(?s).*\"answer\".*1 succeeded in .* 0\\.0000\\d+ USD.*"), shown.out());
            assertEquals("Just this once", result("r-2").path("inputs").path("text").asText());
            assertTrue(result("r-2").path("edited").asBoolean());
            assertEquals("r-4\n", content("results.jsonl.retry"));
            assertTrue(events("attempt").getLast().path("edited").asBoolean());
        }

        @Test
        void showsTheReasonIfItFails() throws IOException {
            five().say("retry r-2").exits(3).shows("1 failed in ", "the model refused");

            assertFalse(events("end").getLast().has("edited"));
        }

        @Test
        void streamsUnlessBlockingModeIsGiven() throws Exception {
            var dify = new Simulated();
            csv("id,text", "1,a", "2,b");
            var session = session(dify);

            session.ok("retry 1");
            session.ok("retry 2 --mode blocking");

            assertEquals(List.of("streaming", "blocking"), events("attempt").stream()
                    .map(event -> event.path("mode").asText()).toList());
        }

        /// Starts a retry of row 1 in its own process, and kills it as soon as `when` is in the log.
        private void killed(Simulated dify, String script, String when) throws Exception {
            csv("id,text", "1,a");
            var child = start(dify.settings(), shell());
            feed(child, script);
            until(when, () -> !events(when).isEmpty() || !child.isAlive());
            child.destroyForcibly().waitFor();
            assertFalse(events(when).isEmpty(), content("child.err"));
        }

        private void run(Simulated dify, String... more) throws IOException {
            call(dify.settings(), typed("run", more)).exits(0);
        }

        /// The log has no values, so only those who set them again can use the result.
        @ParameterizedTest
        @ValueSource(strings = {"--add", "--resend-unknown"})
        void isNotPaidForAgainIfKilledWhileAnEditedRowRuns(String option) throws Exception {
            var dify = new Simulated("--latency", "1s");
            killed(dify, SET + RETRY, "run");

            run(dify, option);
            run(dify, "--rerun-changed");

            assertEquals(1, dify.count("started"));
            assertEquals("better", result("1").path("inputs").path("text").asText());
            assertTrue(result("1").path("edited").asBoolean());
        }

        /// A crash may lose the last line of the log.
        @ParameterizedTest
        @ValueSource(booleans = {false, true})
        void isNotPaidForAgainIfKilledAfterAnEditedRowSucceeded(boolean isEndLost) throws Exception {
            var dify = new Simulated("--latency", "50ms");
            killed(dify, SET + RETRY + "retry nobody\n", "stop");
            if (isEndLost) {
                var log = Files.readAllLines(file("results.jsonl.log"));
                Files.write(file("results.jsonl.log"), log.subList(0, log.size() - 1));
            }

            run(dify);
            run(dify, "--rerun-changed");

            assertEquals(1, dify.count("started"));
            assertEquals("better", result("1").path("inputs").path("text").asText());
        }

        @Test
        void countsAsUneditedIfTheCsvLaterHasItsEdits() throws Exception {
            var dify = new Simulated("--latency", "1s");
            killed(dify, SET + RETRY, "run");
            csv("id,text", "1,better");

            run(dify);

            assertEquals(1, dify.count("started"));
            assertFalse(result("1").has("edited"));
        }
    }

    // ── Completion ──────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class ShellCompletion {
        @Test
        void proposesIdsOfFailedRowsFirstAndFiles() throws IOException {
            var session = five();

            assertEquals(List.of("r-2", "r-4", "r-1", "r-3", "r-5"), session.completed("show r"));
            assertEquals(List.of("r-2", "r-4", "r-1", "r-3", "r-5"), session.completed("retry r-1 r"));
            for (var command : List.of("save ", "open ", "compare ", "run -i ", "status --html "))
                assertEquals(List.of(input()), session.completed(command + path("dat")), command);
            assertEquals(List.of(), session.completed("status r"));
        }

        @Test
        void proposesCommandsAndOptionsWithoutSideEffects() throws IOException {
            var session = five();
            var before = refusals(session);

            assertEquals(List.of("show"), session.completed("sho"));
            assertEquals(List.of("--limit"), session.completed("run --lim"));
            assertEquals(before, refusals(session));
            session.ok("help").shows("failures");
        }

        private static List<String> refusals(Session session) {
            return Stream.of("show r-9", "shwo r-2", "show --fill r-2", "status --jsn")
                    .map(line -> session.refused(line).out()).toList();
        }
    }

    // ── Text of others ──────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class TheTextOfARunInTheShell {
        @Test
        void isPrintedWithoutControlCharacters() throws IOException {
            var bad = "red \033[31m, \u009b2J, \u202e, bell \007 and\r";
            var out = new StringWriter();
            var printer = new PrintWriter(out);
            var view = new RunView(printer);

            view.onStreamEvent(new StreamEvent.NodeBegan(bad, bad));
            view.onStreamEvent(new StreamEvent.Chunk(bad + "\nnext" + bad));
            view.onStreamEvent(new StreamEvent.NodeEnded(bad, bad, bad, 1, bad));
            new RowView(true, printer).printValue(Given.JSON.createObjectNode().put("answer", bad));
            new RowView(false, printer).printValue(Given.JSON.createObjectNode().put("answer", bad).path("answer"));

            assertTrue(out.toString().contains("red  [31m"), out.toString());
            assertTrue(out.toString().replace(System.lineSeparator(), "\n").chars()
                    .allMatch(c -> c == '\n' || !Character.isISOControl(c) && c != 0x202e),
                    out.toString());
        }

        @Test
        void isCutUnlessTheFullTextIsRequested() {
            var text = "x".repeat(5000);
            for (boolean full : new boolean[] {false, true}) {
                var out = new StringWriter();
                new RowView(full, new PrintWriter(out)).printValue(Given.JSON.createObjectNode().put("answer", text));
                assertEquals(full, out.toString().contains(text));
                assertTrue(full || out.toString().length() < 400);
            }
        }
    }

    // ── Not a terminal ──────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    class AShellScript {
        @BeforeEach
        void rows() throws IOException {
            Files.writeString(file("data.csv"), FIVE);
        }

        private int run(Session session, boolean keepGoing, String lines) throws IOException {
            session.shown.getBuffer().setLength(0);
            return Shell.script(session.session, new StringReader(lines), keepGoing);
        }

        private static String last(Session session) {
            return session.shown.toString().lines().reduce("", (_, line) -> line);
        }

        @Test
        void stopsAtAFailedCommandAndReportsItsLine() throws IOException {
            var session = five(); // rows that failed (`status`) do not end it

            assertEquals(3, run(session, false, "status\n\nshow r-9\nset r-1 text=better\n"));
            assertTrue(last(session).matches("difyexec: line 3: .*2.*"), last(session));
            session.hasNoEdits();
        }

        @Test
        void stopsAtAnInterruptWithExitCode130() throws Exception {
            var session = session(new Simulated("--latency", "10m"));
            var thread = Thread.currentThread();
            var threads = Executors.newVirtualThreadPerTaskExecutor();
            open.add(threads);
            threads.submit(() -> {
                until("a run", () -> !events("run").isEmpty());
                thread.interrupt();
                return true;
            });

            assertEquals(130, run(session, true, "retry r-2\nset r-1 text=better\n"));
            assertTrue(last(session).matches("difyexec: line 1: .*130.*"), last(session));
            session.hasNoEdits();
        }

        @Test
        void continuesAfterAFailureOnRequestWithTheHighestExitCode() throws IOException {
            assertEquals(3, run(reopened(), true, "show r-9\nrun --progress off\nedits\n"));
            assertTrue(Files.exists(file("results.jsonl")));
        }

        @Test
        void reportsAnUnclosedQuoteWithItsLine() throws IOException {
            var session = five();

            assertEquals(3, run(session, true, "status\n# it's\nset r-1 text=\"two\nlines\n"));
            assertTrue(last(session).startsWith("difyexec: line 3: "), last(session));
        }

        @ParameterizedTest
        @CsvSource({"'set r-1 text=better', true", "'set r-1 text=better\nexit', true", "'edits', false",
            "'set r-1 text=better\nsave new.csv', false"})
        void warnsAtItsEndOfEditsThatNoFileHas(String lines, boolean warns) throws IOException {
            var session = five();

            assertEquals(0, run(session, false, lines.replace("new.csv", path("new.csv")) + "\n"));
            assertEquals(warns, last(session).contains("save FILE.csv"), last(session));
        }

        @Test
        void comparesOtherFilesThanThoseOfTheOpenBatch() throws IOException {
            var session = five();
            Files.copy(file("results.jsonl"), file("other.jsonl"));

            session.say("compare " + path("other.jsonl") + " " + path("results.jsonl")).exits(3).shows("only in results");
            session.say("compare -i " + input() + " --expect id=/answer " + path("results.jsonl")).exits(3);
        }

        @Test
        void ignoresTheLinesAfterExit() throws IOException {
            var session = reopened();

            assertEquals(0, run(session, false, "exit\nshow r-9\n"));
            assertTrue(session.session.isExited());
        }
    }

    // ── Terminal ────────────────────────────────────────────────────────────────────────────────────────────────────

    @Nested
    @Execution(ExecutionMode.SAME_THREAD)
    class AShellInATerminal {
        private void shows(String text) throws Exception {
            try {
                until(text, () -> screen().contains(text));
            } catch (AssertionError missing) {
                throw new AssertionError(missing.getMessage() + " on\n" + screen(), missing);
            }
        }

        private void type(String text) throws Exception {
            tmux("send-keys", "-l", text);
        }

        private void enter(String line) throws Exception {
            type(line);
            press("Enter");
        }

        private void press(String... keys) throws Exception {
            for (var key : keys) tmux("send-keys", key);
        }

        /// Opens the shell in a terminal, and waits for its prompt.
        private void begin(Map<String, String> settings, String... more) throws Exception {
            terminal(80, 24, settings, shell(more));
            shows("dify>");
        }

        /// Waits for a prompt. Keys pressed earlier would go to the previous line, or to the terminal's own line.
        private void prompts() throws Exception {
            until("a prompt", () -> screen().strip().endsWith("dify>"));
        }

        private void dropsTheLine() throws Exception {
            press("C-c");
            prompts();
        }

        private void leaves() throws Exception {
            prompts();
            press("C-d");
            ends();
        }

        private void leavesWithoutSaving() throws Exception {
            prompts();
            press("C-d");
            shows("not saved");
            leaves();
        }

        private void ends() throws Exception {
            until("the end", () -> Files.exists(file("code")));
            assertEquals("0\n", content("code"), screen());
        }

        @Test
        void completesWordsAndRecallsEarlierLines() throws Exception {
            five();
            var settings = Map.of("XDG_STATE_HOME", path("state"), "DIFY_API_KEY", KEY);
            begin(settings, "--demo");

            shows("results.jsonl (2 failed) dify>");
            type("fail");
            press("Tab");
            shows("dify> failures");
            dropsTheLine();
            enter("show r-9");
            shows("\"r-9\"");
            assertFalse(screen().contains("Exception"), screen());
            prompts();
            type("show r-");
            press("Tab");
            shows("r-2   r-4   r-1");
            dropsTheLine();
            type("set r-2 text=\"mended\"");
            shows("dify> set r-2 text=\"mended\"");
            press("Enter");
            shows("+ mended");
            prompts();
            tmux("resize-window", "-x", "50", "-y", "20");
            enter("set r-4 text=" + KEY);
            shows("API key");
            prompts();
            enter("edits");
            shows("1 edit in 1 row");
            prompts();
            press("C-d");
            shows("1 edit in 1 row not saved");
            prompts();
            enter("set r-2 text=\"mended again\""); // another edit, but as many as before
            prompts();
            press("C-d");
            until("another warning", () -> screen().split("not saved", -1).length == 3);
            prompts();
            enter("exit");
            ends();

            begin(settings, "--demo");
            press("Up", "Up");
            shows("dify> set r-2 text=\"mended again\"");
            dropsTheLine();
            type("show ");
            press("Tab", "Tab", "Enter"); // the last one accepts the proposal
            shows("dify> show r-2");
            press("Enter");
            shows("Row r-2");
            prompts();
            leaves();
            var history = Files.readString(file("state").resolve("difyexec").resolve("history"));
            assertTrue(history.contains("edits") && !history.contains(KEY), history);
            assertFalse(content("results.jsonl.log").contains(KEY));
        }

        /// A line that the terminal itself breaks has all of its columns.
        @Test
        void breaksLinesAtWordsInANarrowTerminal() throws Exception {
            five();
            terminal(40, 120, Map.of("XDG_STATE_HOME", path("state")), shell("--demo"));
            prompts();

            for (var line : List.of("failures", "show r-2", "help", "help retry")) {
                enter(line);
                prompts();
            }

            // the first line contains a path of any length, which has no word to break at
            for (var line : screen().split("\n")) assertTrue(line.length() < 40 || line.startsWith("difyexec "), line);
            leaves();
        }

        /// The editor gets all keys, Ctrl-C too.
        @Test
        void editsAValueInAnEditorOrOnTheCommandLine() throws Exception {
            five();
            Files.writeString(file("editor"), """
                    trap 'echo not yet' INT
                    echo "editor of $(cat "$1")"
                    until read -r line; do :; done
                    printf '%s\n' "$line" > "$1"
                    """);
            begin(Map.of("XDG_STATE_HOME", path("state"), "VISUAL", "sh " + file("editor")), "--demo");

            enter("edit r-2 text");
            shows("editor of [fail] The parcel came late");
            press("C-c");
            shows("not yet");
            enter("It's \"late\"");
            shows("+ It's \"late\"");
            prompts();
            enter("set r-2 text=\"It's \\\"late\\\" again\"");
            shows("+ It's \"late\" again");
            leavesWithoutSaving();
        }

        @Test
        void editsAValueInViIfNoEditorIsSet() throws Exception {
            five();
            Files.createDirectory(file("bin"));
            executable(file("bin").resolve("vi"), "#!/bin/sh\necho by vi >\"$1\"\n");
            begin(Map.of("XDG_STATE_HOME", path("state"), "VISUAL", "", "EDITOR", "",
                    "PATH", file("bin") + ":" + System.getenv("PATH")), "--demo");

            enter("edit r-2 text");

            shows("+ by vi");
            leavesWithoutSaving();
        }

        @Test
        void runsEachCommandOfAPastedBlock() throws Exception {
            five();
            begin(Map.of("XDG_STATE_HOME", path("state")), "--demo");

            Files.writeString(file("paste"), "set r-2 text=\"first line\nsecond line\"\nedits\n");
            tmux("load-buffer", path("paste"));
            tmux("paste-buffer", "-p");
            shows("edits");
            press("Enter");

            shows("  + first line\n  + second line\n1 edit in 1 row");
            leavesWithoutSaving();
        }

        /// The session handles the signal, and the shell notices that nobody can type any more.
        @Test
        void endsAfterItsTerminalIsClosedWhileARowRuns() throws Exception {
            var dify = new Simulated("--latency", "10m");
            csv("id,text", "1,a");
            begin(dify.settings());

            enter("retry 1");
            until("a run", () -> !events("run").isEmpty());
            var shell = ProcessHandle.of(events("session").getFirst().at("/process/id").asLong()).orElseThrow();
            tmux("kill-server");
            until("the end of the shell", () -> !shell.isAlive());

            assertEquals("interrupted", events("end").getLast().path("outcome").asText());
            assertEquals(1, dify.count("stops"));
        }

        @Test
        void stopsTheRunOnTheServerAfterCtrlC() throws Exception {
            var dify = new Simulated("--latency", "10m");
            csv("id,text", "1,a");
            begin(dify.settings());

            enter("retry 1");
            until("a run", () -> !events("run").isEmpty());
            press("C-c");
            until("its stop", () -> dify.count("stops") == 1);
            shows("Stopped: interrupted.");
            prompts();
            enter("failures");

            shows("No failed");
            assertEquals("interrupted", events("end").getLast().path("outcome").asText());
            leaves();
        }
    }
}

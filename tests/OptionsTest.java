package difyexec;

import org.junit.jupiter.api.*;
import org.junit.jupiter.api.function.Executable;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.*;
import org.junit.jupiter.params.provider.*;
import picocli.CommandLine;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.Given.*;
import static org.junit.jupiter.api.Assertions.*;

/// Options: what is typed, and what it means.
final class OptionsTest extends WholeCommand {
    private Call call(String... args) throws IOException {
        return call(80, args);
    }

    private Call call(int columns, String... args) throws IOException {
        return call(Map.of("DIFY_API_KEY", KEY, "COLUMNS", columns + "", "NO_COLOR", "1"), args);
    }

    @Nested
    class TheHelp {
        private static final List<String> COMMANDS = List.of("check", "run", "status", "retry", "export", "shell",
                "compare", "verify");

        @Test
        void matchesItsGoldenFiles() throws IOException {
            Golden.check("help.txt", call("--help").out());
            for (var command : COMMANDS) Golden.check(command + "-help.txt", call(command, "--help").out());
            Golden.check("run-help-all.txt", call("run", "--help-all").out());
        }

        /// Also those that `--help` hides because they are seldom used.
        @Test
        void listsExactlyTheOptionsOfEachCommand() throws IOException {
            var commands = commandLine(Given.env(Map.of())).getSubcommands();
            for (var command : COMMANDS) {
                var shown = Pattern.compile("(?m)^ {2,6}(?:-\\w, )?(--[\\w-]+)").matcher(call(command, "--help-all").out())
                        .results().map(option -> option.group(1)).collect(Collectors.toCollection(TreeSet::new));
                var known = commands.get(command).getCommandSpec().options().stream()
                        .map(option -> option.usageHelp() ? "--help" : option.longestName())
                        .collect(Collectors.toCollection(TreeSet::new));
                assertEquals(known, shown, command);
            }
        }

        @Test
        void pointsToTheReadmeNextToTheScript(@TempDir Path here, @TempDir Path script) throws IOException {
            Files.writeString(here.resolve("README.md"), "of another project");
            Files.writeString(script.resolve("README.md"), "");
            Files.writeString(script.resolve("DifyExec.java"), "");

            call(Given.env(Map.of("NO_COLOR", "1"), here, script), "--help")
                    .shows(script.resolve("README.md").toString());
            call("--help").omits("README.md");
        }

        @Test
        void showsAllOptionsOnlyWithHelpAll() throws IOException {
            for (var command : Stream.concat(COMMANDS.stream(), Stream.of("generate-completion")).toList()) {
                call(command, "--help-all").exits(0).shows("--help");
            }
            assertEquals(call("--help"), call("--help-all"));
            call("status", "--help-all").shows("--sheet=NAME");
            call("status", "--help").omits("--sheet=NAME").shows("--sheet");
            call("check", "--help").shows("--allow-empty");
        }

        @Test
        void isTheSameForHelpOptionAndHelpCommand() throws IOException {
            assertEquals(call("--help"), call("help"));
            for (var command : COMMANDS) assertEquals(call(command, "--help"), call("help", command));
        }

        @Test
        void fitsATerminalBetween60And120ColumnsWide() throws IOException {
            for (var command : COMMANDS)
                for (int columns : List.of(60, 80, 120)) call(columns, command, "--help-all").out().lines()
                        .forEach(line -> assertTrue(line.length() <= columns, line));
            assertEquals(call(60, "run", "--help"), call(20, "run", "--help"));
            assertEquals(call(120, "run", "--help"), call(300, "run", "--help"));
        }

        @ParameterizedTest
        @ValueSource(strings = {"run", "retry"})
        void omitsRareOptionsToStayWithin60Lines(String command) throws IOException {
            var help = call(command, "--help").out();
            var rare = List.of("--settle", "--grace", "--user", "--retry-failed-runs", "--no-check",
                    "--files", "--no-bom");

            assertTrue(help.lines().count() <= 60, help);
            assertTrue(help.lines().filter(line -> line.matches(" +-.*")).count() <= 32, help);
            for (var option : rare) assertFalse(help.contains(option + "=") || help.contains(option + " "), option);
            for (var option : rare) assertTrue(call(command, "--help-all").out().contains("      " + option), option);
        }

        @Test
        void hasExamplesThatAreValidCommands() throws IOException {
            for (var command : COMMANDS) {
                var lines = call(command, "--help").out().lines().toList();
                var examples = lines.subList(lines.indexOf("Examples:") + 1, lines.size());
                assertTrue(examples.size() > 1, command);
                for (var example : examples) {
                    assertTrue(example.startsWith("  difyexec " + command), example);
                    commandLine(Given.env(Map.of()))
                            .parseArgs(example.replaceAll("^  difyexec | <.*| \\|.*", "").split(" "));
                }
            }
        }

        @Test
        void startsExamplesWithTheCommandThatStartedTheTool() throws IOException {
            var env = new Env(Map.of("NO_COLOR", "1")::get, List.of(), "./jbang DifyExec.java");

            call(env, "status", "--help").shows("\n  ./jbang DifyExec.java status -o results.jsonl\n");
        }

        @Test
        void theCompletionScriptOffersTheValuesOfAnOption() throws IOException {
            assertTrue(call("generate-completion").out().contains("\"auto\" \"blocking\" \"streaming\""));
        }
    }

    @Nested
    class TheCommandTree {
        private static Set<String> commands(String... args) {
            return commandLine(Given.env(Map.of()), args).getSubcommands().keySet();
        }

        @Test
        void containsOnlyTheTypedCommandUnlessOthersAreNeeded() {
            for (var name : List.of("run", "retry", "status", "export", "compare", "check", "verify"))
                assertEquals(Set.of(name), commands(name, "-o", "status"));
            for (var first : List.of("", "--help", "help", "shell", "generate-completion", "statsu"))
                assertTrue(commands(first).containsAll(TheHelp.COMMANDS), first);
        }
    }

    @Nested
    class AnInvalidCommandLine {
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                typed                              | word        | hint
                runn -i a.csv -o b.jsonl           | runn        | run
                exprot                             | exprot      | export
                frobnicate                         | frobnicate  | --help
                rnu                                | rnu         | did you mean run?
                merge a.jsonl                      | merge       | docs/scale.md
                pull -o rows.jsonl                 | pull        | docs/cookbook.md
                man .                              | man         | --help-all
                retyr                              | retyr       | did you mean retry?
                run --progres off -i a -o b        | --progres   | did you mean --progress?
                status b.jsonl                     | b.jsonl     | -o b.jsonl
                run --api-key app-1 -i a -o b      | --api-key   | DIFY_API_KEY
                help rnu                           | rnu         | did you mean run?
                run --timout 5 -i a.csv -o b.jsonl | --timout    | --timeout
                run --inptu a.csv -o b.jsonl       | --inptu     | --input
                run --frobnicate -i a -o b         | --frobnicate| --help
                status -o b.jsonl -c 5             | -c          | --help
                run data.csv                       | data.csv    | -i data.csv
                run data.csv -o b.jsonl            | data.csv    | -i data.csv
                run -o b.jsonl -i a.csv c.csv      | c.csv       | --help
                run –demo -i a.csv -o b.jsonl      | –demo       | --demo
                run --demo                         | -i FILE and -o JSONL | --help
                -i data.csv run                    | -i          | after the command
                generate-completion fish           | fish        | --help
                """)
        void isRejectedWithTheInvalidWordAndAHint(String typed, String word, String hint) throws IOException {
            var call = call(typed.split(" ")).exits(2).reports(word).hints(hint);

            assertEquals(2, call.err().lines().count(), call.err());
        }

        @ParameterizedTest
        @CsvSource(delimiter = '|', textBlock = """
                run -i a.csv -o b.jsonl -c 5 -c 6                       | --concurrency
                run -i a.csv -o b.jsonl --timeout 5 --timeout=6         | --timeout
                run -i a.csv -o b.jsonl --var a=1 --var a=2             | --var
                run -i a.csv -o b.jsonl --map a                         | --map a: must be COLUMN=VARIABLE
                run -i a.csv -o b.jsonl --user=                         | --user
                run -i a.csv -o b.jsonl --add=x                         | --add x: takes no value
                run -i a.csv -o b.jsonl --workflow-id=_                 | --workflow-id
                run -i a.csv -o b.jsonl --save-files=                   | --save-files
                run -i a.csv -o b.jsonl --base-url //127.0.0.1/v1       | --base-url
                run -i a.csv -o b.jsonl --mode fast                     | auto, blocking or streaming
                run -i a.csv -o b.jsonl --quote x                       | --quote x: must be none
                """)
        void isRejectedWithTheOptionThatIsRepeatedOrHasABadValue(String typed, String named) throws IOException {
            call(Stream.of(typed.split(" +")).map(word -> word.replace('_', ' ')).toArray(String[]::new)).exits(2)
                    .reports(named);
        }

        @Test
        void anOutOfMemoryErrorIsReportedInOneSentenceWithAHint() throws IOException {
            csv("id", "1");
            var env = new Env(name -> {
                if (name.equals("DIFY_CA_FILE")) throw new OutOfMemoryError("Java heap space");
                return name.equals("DIFY_API_KEY") ? "app-x" : null;
            }, List.of(), "difyexec");

            var call = call(env, "check", "-i", input()).exits(4).hints();

            assertEquals(2, call.err().lines().count(), call.err());
        }
    }

    @Nested
    class OptionValues {
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                text,    millis
                90,      90000
                1.5,     1500
                0,       0
                90s,     90000
                2m,      120000
                1.5m,    90000
                1h,      3600000
                500ms,   500
                0.5,     500
                ' 7 s ', 7000
                720h,    2592000000
                """)
        void aDurationIsInSecondsUnlessItHasAUnit(String text, long millis) {
            assertEquals(Duration.ofMillis(millis), CommandLines.Converters.duration(text));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                text,                           address
                https://api.dify.ai/v1,         https://api.dify.ai/v1
                https://api.dify.ai/v1/,        https://api.dify.ai/v1
                ' http://dify.example:8080//',  http://dify.example:8080
                http://[::1]:5001/v1,           http://[::1]:5001/v1
                """)
        void aBaseUrlLosesItsTrailingSlashesAndSpaces(String text, URI address) {
            assertEquals(address, CommandLines.Converters.parseUrl(text));
        }

        @ParameterizedTest
        @ValueSource(strings = {"", "api.dify.ai/v1", "ftp://dify.example", "file:/v1", "https://", "https:///v1",
                "http://two words", "https://dify.example/v1?key=1", "https://dify.example/v1#top",
                "https://me:secret@dify.example/v1", "https://dify.example:65536/v1"})
        void anInvalidBaseUrlIsRejectedWithoutPrintingIt(String text) {
            var problem = assertThrows(CommandLine.TypeConversionException.class,
                    () -> CommandLines.Converters.parseUrl(text));

            assertFalse(problem.getMessage().contains("secret"));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                text, failed, ended, reached
                3,    2,      100,   false
                3,    3,      3,     true
                1,    1,      1,     true
                5%,   19,     19,    false
                5%,   1,      20,    false
                5%,   2,      20,    true
                5%,   5,      100,   false
                5%,   6,      100,   true
                100%, 19,     20,    false
                100%, 20,     20,    true
                """)
        void aFailureLimitIsANumberOrAPercentageFromTwentyRowsOn(String text, long failed, long ended,
                boolean reached) {
            assertEquals(reached, CommandLines.Converters.ceiling(text).isReached(failed, ended));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                text,      millis
                10/s,      100
                0.5/s,     2000
                120/m,     500
                500/h,     7200
                ' 1/h ',   3600000
                """)
        void aRateIsConvertedToTheTimeBetweenTwoStarts(String text, long millis) {
            assertEquals(Duration.ofMillis(millis), CommandLines.Converters.rate(text).interval());
        }

        @Test
        void anInvalidDurationFailureLimitOrRateIsRejected() {
            for (var text : List.of("", "abc", "-1", "1,5", ".5", "5 minutes", "1e3", "5d", "٣",
                    "99999999999999999999", "9999999h", "721h", "2592001"))
                assertInvalid(() -> CommandLines.Converters.duration(text));
            for (var text : List.of("", "0", "-1", "0%", "101%", "1.5%", "5 %", "%", "many", "9999999999"))
                assertInvalid(() -> CommandLines.Converters.ceiling(text));
            for (var text : List.of("", "10", "0/s", "0.0/m", "-1/s", "10/d", "ten/s", "10 /s", "1/0"))
                assertInvalid(() -> CommandLines.Converters.rate(text));
        }

        private static void assertInvalid(Executable conversion) {
            assertThrows(CommandLine.TypeConversionException.class, conversion);
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, nullValues = "-", textBlock = """
                concurrency, wait, slots
                -,           -,    5
                -,           2,    1
                8,           -,    8
                1,           2,    1
                10000,       -,    10000
                10001,       -,    -
                99999999999, -,    -
                2,           1,    -
                """)
        void aConcurrencyIsAtMost10000AndOneWithAWait(Long concurrency, Integer wait, Integer slots) {
            var pace = new Work.PaceOptions();
            pace.concurrency = concurrency;
            pace.wait = wait == null ? null : seconds(wait);

            if (slots == null) assertEquals(Exit.UNUSABLE, assertThrows(Unusable.class, pace::concurrency).exit);
            else assertEquals(slots, pace.concurrency());
        }
    }
}

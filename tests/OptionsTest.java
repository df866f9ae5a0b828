package difyexec;

import difyexec.DifyExec.Limits.Ceiling;
import difyexec.DifyExec.Pace.Rate;
import org.junit.jupiter.api.Nested;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import picocli.CommandLine;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.Given.*;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

/// Options: what is typed, and what it means.
final class OptionsTest {
    @Nested
    class TheHelp {
        @ParameterizedTest
        @CsvSource({"help.txt,", "run-help.txt, run", "retry-help.txt, retry", "status-help.txt, status",
                "export-help.txt, export", "compare-help.txt, compare", "merge-help.txt, merge",
                "check-help.txt, check",
                "shell-help.txt, shell"})
        void isTheOneInTheGoldenFile(String golden, String command) throws IOException {
            var out = new StringWriter();
            var args = command == null ? new String[] {"--help"} : new String[] {command, "--help"};
            var settings = Map.of("DIFY_API_KEY", "app-secret-of-mine", "COLUMNS", "100", "NO_COLOR", "1");

            int code = commandLine(Env.of(settings), args).setOut(new PrintWriter(out)).execute(args);

            assertEquals(Exit.OK.code, code);
            assertFalse(out.toString().contains("secret"));
            Golden.check(golden, out.toString());
        }

        private static String help(String command, int columns) {
            var out = new StringWriter();
            var line = commandLine(Env.of(Map.of("COLUMNS", columns + "", "NO_COLOR", "1")));
            line.setOut(new PrintWriter(out)).execute(command, "--help");
            return out.toString();
        }

        private static List<String> words(String help) {
            return List.of(help.replace(" \\\n", " ").strip().split("\\s+"));
        }

        @ParameterizedTest(name = "{0}")
        @ValueSource(strings = {"run", "retry", "status", "export", "compare", "merge", "check", "shell",
            "generate-completion"})
        void isAsWideAsTheTerminalAndBreaksNoWord(String command) {
            var spec = commandLine(Env.of(Map.of())).getSubcommands().get(command).getCommandSpec();
            for (int columns : List.of(60, 80, 120)) {
                var help = help(command, columns);
                help.lines().forEach(line -> assertTrue(line.length() <= columns, line));
                assertEquals(words(help(command, 120)), words(help));
                for (var option : spec.options())
                    assertTrue(String.join(" ", words(help)).contains(String.join(" ", option.description())), help);
            }
        }

        @Test
        void hasLimitsOfItsWidth() {
            assertEquals(help("run", 60), help("run", 20));
            assertEquals(help("run", 120), help("run", 300));
        }

        @Test
        void beginsWithWhatEveryoneNeeds() {
            var lines = help("run", 100).lines().toList();

            assertEquals("Usage: difyexec run [OPTIONS] -i CSV -o JSONL", lines.getFirst());
            var first = lines.subList(0, lines.indexOf("Input:")).stream().map(String::strip)
                    .filter(line -> line.startsWith("-")).map(line -> line.split("[,=\\[ ]")[0]).toList();
            assertEquals(List.of("-i", "-o", "--demo", "--limit", "-c"), first);
        }

        @ParameterizedTest(name = "{0}")
        @ValueSource(strings = {"run", "retry", "status", "export", "compare", "merge", "check", "shell"})
        void endsWithThreeExamplesThatCanBeTyped(String command) {
            var lines = help(command, 100).lines().toList();
            var examples = lines.subList(lines.indexOf("Examples:") + 1, lines.size());

            assertEquals(3, examples.size());
            for (var example : examples) {
                assertTrue(example.startsWith("  difyexec " + command), example);
                commandLine(Env.of(Map.of())).parseArgs(example.replaceAll("^  difyexec | <.*| \\|.*", "").split(" "));
            }
        }

        @Test
        void hasExamplesThatBeginAsTheToolWasStarted() {
            var spec = commandLine(Env.of(Map.of())).getSubcommands().get("status").getCommandSpec();
            var help = new CommandLines.HelpPage(spec, 60, new Ansi(false), "./jbang DifyExec.java ").text();

            assertTrue(help.contains("\n  ./jbang DifyExec.java status -o results.jsonl --html \\\n      report.html\n"),
                    help);
        }

        @Test
        void isBoldOnATerminalOnly() {
            var spec = commandLine(Env.of(Map.of())).getSubcommands().get("run").getCommandSpec();
            var bold = new CommandLines.HelpPage(spec, 80, new Ansi(true), "").text();

            for (var words : List.of("Input:", "-c, --concurrency=N", "Examples:"))
                assertTrue(bold.contains("\033[1m" + words + "\033[0m"), words);
            assertEquals(new CommandLines.HelpPage(spec, 80, new Ansi(false), "").text(),
                    bold.replaceAll("\033\\[[01]m", ""));
            assertFalse(help("run", 80).contains("\033"));
        }

        @Test
        void writesWordsAsCompletionOffersThem() {
            var out = new StringWriter();
            commandLine(Env.of(Map.of())).setOut(new PrintWriter(out)).execute("generate-completion");

            for (var words : List.of("\"auto\" \"blocking\" \"streaming\"", "\"never\" \"transient\" \"always\"",
                    "\"auto\" \"plain\" \"off\""))
                assertTrue(out.toString().contains(words), words);
        }
    }

    @Nested
    class TheTree {
        private static Set<String> commands(String... args) {
            return commandLine(Env.of(Map.of()), args).getSubcommands().keySet();
        }

        @Test
        void isOfTheNamedCommandAlone() {
            for (var name : List.of("run", "retry", "status", "export", "compare", "merge", "check"))
                assertEquals(Set.of(name), commands(name, "-o", "status"));
        }

        @ParameterizedTest
        @ValueSource(strings = {"", "--help", "shell", "generate-completion", "generatecompletion", "statsu"})
        void isWholeWhereItIsListedOrHandedOn(String first) {
            assertEquals(9, commands(first).size());
            assertEquals(commands(), commands(first));
        }
    }

    @Nested
    class AMistypedWord {
        @ParameterizedTest(name = "{0}: {1}")
        @CsvSource(useHeadersInDisplayName = true, quoteCharacter = '`', textBlock = """
                typed                              | said
                runn -i a.csv -o b.jsonl           | no command "runn"; did you mean run?
                exprot                             | no command "exprot"; did you mean export?
                frobnicate                         | no command "frobnicate"
                run --timout 5 -i a.csv -o b.jsonl | no option --timout; did you mean --timeout?
                run --timout=5                     | no option --timout; did you mean --timeout?
                run --inptu a.csv -o b.jsonl       | no option --inptu; did you mean --input?
                run --frobnicate                   | no option --frobnicate
                status -o b.jsonl -c 5             | no option -c
                status -o b.jsonl c.csv            | status has no use for "c.csv"
                """, delimiter = '|')
        void isNamedWithTheRightOne(String typed, String said) {
            var err = new StringWriter();
            var args = typed.split(" ");

            int code = commandLine(Env.of(Map.of()), args).setErr(new PrintWriter(err)).execute(args);

            assertEquals(Exit.UNUSABLE.code, code);
            assertEquals("difyexec: " + said, err.toString().lines().findFirst().orElseThrow());
            assertTrue(err.toString().lines().count() <= 3, err::toString);
        }
    }

    @Nested
    class TheOptions {
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
                8760h,   31536000000
                """)
        void aDurationIsSecondsUnlessItNamesItsUnit(String text, long millis) {
            assertEquals(Duration.ofMillis(millis), Converters.duration(text));
        }

        @ParameterizedTest
        @ValueSource(strings = {"", "abc", "-1", "1,5", ".5", "5 minutes", "1e3", "5d", "٣", "8761h",
                "99999999999999999999"})
        void whatIsNoDurationIsRefused(String text) {
            assertThrows(CommandLine.TypeConversionException.class, () -> Converters.duration(text));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                text,                           address
                https://api.dify.ai/v1,         https://api.dify.ai/v1
                https://api.dify.ai/v1/,        https://api.dify.ai/v1
                ' http://dify.example:8080//',  http://dify.example:8080
                http://[::1]:5001/v1,           http://[::1]:5001/v1
                """)
        void anAddressEndsWithoutASlash(String text, URI address) {
            assertEquals(address, Converters.address(text));
        }

        @ParameterizedTest
        @ValueSource(strings = {"", "api.dify.ai/v1", "ftp://dify.example", "file:/v1", "https://", "https:///v1",
                "http://two words", "https://dify.example/v1?key=1", "https://dify.example/v1#top",
                "https://me:secret@dify.example/v1"})
        void whatIsNoAddressIsRefusedWithoutRepeatingIt(String text) {
            var problem = assertThrows(CommandLine.TypeConversionException.class,
                    () -> Converters.address(text));

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
        void aCeilingIsANumberOrAShareFromTwentyRowsOn(String text, long failed, long ended, boolean reached) {
            assertEquals(reached, Ceiling.of(text).isReached(failed, ended));
        }

        @ParameterizedTest
        @ValueSource(strings = {"", "0", "-1", "0%", "101%", "1.5%", "5 %", "%", "many", "9999999999"})
        void whatIsNoCeilingIsRefused(String text) {
            assertThrows(CommandLine.TypeConversionException.class, () -> Ceiling.of(text));
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
        void aRateIsTheTimeBetweenTwoStarts(String text, long millis) {
            assertEquals(Duration.ofMillis(millis), Rate.of(text).interval());
        }

        @ParameterizedTest
        @ValueSource(strings = {"", "10", "0/s", "0.0/m", "-1/s", "10/d", "ten/s", "10 /s", "1/0"})
        void whatIsNoRateIsRefused(String text) {
            assertThrows(CommandLine.TypeConversionException.class, () -> Rate.of(text));
        }

        @Test
        void aTypedOptionWinsOverTheEnvironmentThatOverTheFileThatOverTheDefault(@TempDir Path folder)
                throws IOException {
            Files.writeString(folder.resolve(".env"), "MAX_RETRIES=8\nMAX_RETRY_DELAY=9\n");
            var env = Env.of(Map.of("MAX_RETRIES", "7", "TIMEOUT", "2m"), folder);
            var line = commandLine(env);

            line.parseArgs("run", "-i", "data.csv", "-o", "results.jsonl", "--timeout", "30s");

            var work = ((Run) line.getSubcommands().get("run").getCommand()).work;
            assertEquals(seconds(30), work.setup.dify.timeout);
            assertEquals(7, work.setup.retrying.maxRetries);
            assertEquals(seconds(9), work.setup.retrying.maxDelay);
            assertEquals(seconds(1), work.setup.retrying.initialDelay);
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                place, variable,            value, said
                .env,  TIMEOUT,             abc,   'TIMEOUT in FOLDER/.env, line 1: not a duration'
                .env,  TIMEOUT,             0,     'TIMEOUT in FOLDER/.env, line 1: a time above zero'
                '',    TIMEOUT,             abc,   TIMEOUT=abc: not a duration
                '',    INITIAL_RETRY_DELAY, -1,    INITIAL_RETRY_DELAY=-1: not a duration
                .env,  DIFY_API_BASE_URL,   dify,  'DIFY_API_BASE_URL in FOLDER/.env, line 1: not an address'
                """)
        void aValueThatCannotBeUsedIsNamedWithItsSource(String place, String variable, String value, String said,
                @TempDir Path folder) throws IOException {
            var err = new StringWriter();
            if (!place.isEmpty()) Files.writeString(folder.resolve(place), variable + "=" + value);
            var env = Env.of(place.isEmpty() ? Map.of(variable, value) : Map.of(), folder);

            int code = commandLine(env).setErr(new PrintWriter(err))
                    .execute("run", "-i", "a.csv", "-o", "b.jsonl");

            assertEquals(Exit.UNUSABLE.code, code);
            assertTrue(err.toString().startsWith("difyexec: " + said.replace("FOLDER", folder.toString())),
                    err.toString());
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, nullValues = "-", textBlock = """
                concurrency, wait, slots
                -,           -,    5
                -,           2,    1
                8,           -,    8
                1,           2,    1
                """)
        void waitingRunsOneRowAtATime(Long concurrency, Integer wait, int slots) {
            var pace = new Work.PaceOptions();
            pace.concurrency = concurrency;
            pace.wait = wait == null ? null : seconds(wait);

            assertEquals(slots, pace.concurrency());
        }

        @ParameterizedTest
        @CsvSource(nullValues = "-", value = {"10001, -", "99999999999, -", "2, 1"})
        void aConcurrencyThatCannotBeIsRefused(long concurrency, Integer wait) {
            var pace = new Work.PaceOptions();
            pace.concurrency = concurrency;
            pace.wait = wait == null ? null : seconds(wait);

            var problem = assertThrows(Unusable.class, pace::concurrency);

            assertEquals(Exit.UNUSABLE, problem.exit());
        }
    }
}

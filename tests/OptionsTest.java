package difyexec;

import difyexec.DifyExec.Limits.Ceiling;
import difyexec.DifyExec.Pace.Rate;
import org.junit.jupiter.api.*;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.*;
import org.junit.jupiter.params.provider.*;
import picocli.CommandLine;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.Given.*;
import static org.junit.jupiter.api.Assertions.*;

/// Options: what is typed, and what it means.
final class OptionsTest {
    private record Call(int code, String out, String err) {
        Optional<String> hint() {
            return err.lines().filter(line -> line.startsWith("hint: ")).map(line -> line.substring(6)).findFirst();
        }
    }

    private static Call call(String... args) {
        return call(80, args);
    }

    private static Call call(int columns, String... args) {
        var settings = Map.of("DIFY_API_KEY", "app-secret-of-mine", "COLUMNS", columns + "", "NO_COLOR", "1");
        var out = new StringWriter();
        var err = new StringWriter();
        int code = commandLine(Given.env(settings), args).setOut(new PrintWriter(out)).setErr(new PrintWriter(err))
                .execute(args);
        return new Call(code, out.toString(), err.toString());
    }

    @Nested
    class TheHelp {
        private static final List<String> COMMANDS = List.of("check", "run", "status", "retry", "export", "shell",
                "compare", "verify", "merge", "pull");

        @Test
        void isTheOneInTheGoldenFiles() throws IOException {
            Golden.check("help.txt", call("--help").out());
            for (var command : COMMANDS) Golden.check(command + "-help.txt", call(command, "--help").out());
            Golden.check("run-help-all.txt", call("run", "--help-all").out());
        }

        /// The commands in whose help each option is, and what it changes there.
        private static final String USES = """
                --input          | check run retry export merge          | the rows that are read
                --input          | status                                | counts pending and changed rows
                --input          | shell                                 | the batch that is open
                --output         | run retry merge pull                  | the files that are written
                --input          | compare                               | the values that are expected
                --expect         | compare                               | the values that are expected
                --tolerance      | compare                               | which numbers are equal
                --output         | status export verify                  | the batch that is read
                --output         | shell                                 | the batch that is open
                --output         | compare                               | the part that is compared
                --demo           | check run retry shell                 | the server
                --json           | check run status retry compare verify | the form of the output
                --html           | status compare                        | writes a page
                --csv            | compare                               | writes a spreadsheet
                --junit          | compare                               | writes a report
                --force          | retry                                 | whether succeeded rows run
                --force          | status export compare pull            | whether a file is overwritten
                --id-column      | check run status retry export shell merge | the ids
                --map            | check run retry shell                 | the variables that are filled
                --map            | status export merge                   | which rows count as changed
                --var            | check run retry shell                 | the variables that are filled
                --var            | status export merge                   | which rows count as changed
                --encoding       | check run status retry export shell merge | the characters that are read
                --sheet          | check run status retry export shell merge | the rows that are read
                --delimiter      | check run status retry export shell merge | the cells that are read
                --header-row     | check run status retry export shell merge | the rows that are read
                --decimal        | check run status retry export shell merge | the numbers that are read
                --shard          | check run retry                       | the rows
                --limit          | run retry                             | the rows
                --ids            | run retry                             | the rows
                --resend-unknown | run retry                             | the rows
                --add            | run retry                             | whether another CSV is accepted
                --pending-only   | run                                   | the rows
                --rerun-changed  | run                                   | the rows
                --sample         | run                                   | the rows
                --seed           | run                                   | the rows
                --fresh          | run                                   | the batch that rows are added to
                --base-url       | check run retry shell verify pull     | the server
                --env-file       | check run retry shell verify pull     | the settings
                --app-id         | check run retry shell verify pull     | the app in the request
                --workflow-id    | check run retry shell                 | the version in the request
                --mode           | check run retry shell                 | the mode in the request
                --query-column   | check run retry shell                 | the question in the request
                --allow-unmapped | check run retry shell                 | whether a header is accepted
                --allow-empty    | check run retry shell                 | which rows are sent
                --files          | check run retry shell                 | the files that are accepted
                --no-check       | check run retry shell                 | how cells are sent
                --user           | run retry shell                       | the user in the request
                --same-app       | run retry shell verify                | whether another key is accepted
                --timeout        | run retry shell                       | the time of a run
                --max-retries    | run retry shell                       | the attempts of a row
                --initial-retry-delay | run retry shell                  | the time of an attempt
                --max-retry-delay     | run retry shell                  | the time of an attempt
                --retry-failed-runs   | run retry shell                  | which rows are tried again
                --settle         | run retry shell                       | how long a run is looked up
                --grace          | run retry shell                       | how long running rows may finish
                --concurrency    | run retry                             | the rows at a time
                --wait           | run retry                             | the time of an attempt
                --rate           | run retry                             | the time of an attempt
                --rate           | verify                                | the time of a request
                --max-failures   | run retry                             | when the batch stops
                --max-tokens     | run retry                             | when the batch stops
                --max-cost       | run retry                             | when the batch stops
                --on-finish      | run retry                             | runs a command
                --save-files     | run retry                             | downloads files
                --no-bom         | run retry merge                       | the first bytes of the results
                --progress       | run retry                             | what is shown
                --show           | check                                 | prints requests
                --failed         | export                                | the rows that are written
                --raw            | export                                | how cells are written
                --first          | compare                               | the files of a side
                --second         | compare                               | the files of a side
                --ignore         | compare                               | the outputs that are compared
                --trim           | compare                               | which texts are equal
                --all            | compare                               | how many rows are shown
                --partial        | merge                                 | whether shards may be missing
                --sample         | verify                                | the rows
                --seed           | verify                                | the rows
                --keep-going     | shell                                 | which command is the last one
                --last           | pull                                  | how many runs are taken
                --since          | pull                                  | the runs that are taken
                --until          | pull                                  | the runs that are taken
                --status         | pull                                  | the runs that are taken
                --keyword        | pull                                  | the runs that are taken
                --own            | pull                                  | the runs that are taken
                --dedupe         | pull                                  | the runs that are taken
                """;

        @Test
        void listsTheOptionsThatTheCommandCanUse() {
            var used = new TreeMap<String, Set<String>>();
            for (var line : USES.lines().toList()) {
                var cells = line.split(" *\\| *");
                for (var command : cells[1].split(" ")) used.computeIfAbsent(command, _ -> new TreeSet<>()).add(cells[0]);
            }
            var listed = new TreeMap<String, Set<String>>();
            for (var command : COMMANDS) listed.put(command, Pattern.compile("(?m)^ {2,6}(?:-\\w, )?(--[\\w-]+)")
                    .matcher(call(command, "--help-all").out()).results().map(option -> option.group(1))
                    .filter(name -> !Set.of("--help", "--version").contains(name))
                    .collect(Collectors.toCollection(TreeSet::new)));

            assertEquals(used, listed);
        }

        @Test
        void hasOneWordingAndTheRequiredOptionsEverywhere() {
            var both = call("--help").out().lines().filter(line -> line.matches("  -[hV], .*"))
                    .map(line -> line.replaceAll(" +", " ")).toList();
            assertEquals(2, both.size());
            for (var command : Stream.concat(COMMANDS.stream(), Stream.of("help", "generate-completion")).toList()) {
                var lines = call(command, "--help").out().lines().map(line -> line.replaceAll(" +", " ")).toList();
                assertTrue(lines.containsAll(both), command);
                assertTrue(lines.getFirst().startsWith("Usage: difyexec " + command + " [OPTIONS]"), command);
            }
            assertEquals("Usage: difyexec run [OPTIONS] -i <CSV> -o <JSONL>",
                    call("run", "--help").out().lines().findFirst().orElseThrow());
        }

        @Test
        void listsTheCommandsInTheOrderOfTheirUse() {
            var listed = Pattern.compile("(?m)^  ([a-z][\\w-]*)  ").matcher(call("--help").out()).results()
                    .map(command -> command.group(1)).toList();

            assertEquals(Stream.concat(COMMANDS.stream(), Stream.of("generate-completion", "help")).toList(), listed);
        }

        @Test
        void namesTheDocumentationNextToTheScript(@TempDir Path here, @TempDir Path script) throws IOException {
            Files.writeString(here.resolve("README.md"), "of another project");
            Files.writeString(script.resolve("README.md"), "");
            Files.writeString(script.resolve("DifyExec.java"), "");
            var out = new StringWriter();

            commandLine(Given.env(Map.of("NO_COLOR", "1"), here, script)).setOut(new PrintWriter(out)).execute("--help");

            assertTrue(out.toString().contains(script.resolve("README.md").toString()), out::toString);
            assertFalse(call("--help").out().contains("README.md"));
        }

        @Test
        void showsAllOptionsOfEveryCommand() {
            for (var command : Stream.concat(COMMANDS.stream(), Stream.of("help", "generate-completion")).toList()) {
                var all = call(command, "--help-all");
                assertEquals(0, all.code(), all.err());
                assertTrue(all.out().contains("--version") || all.out().contains("--help"), all.out());
            }
            assertEquals(call("--help"), call("--help-all"));
            assertTrue(call("status", "--help-all").out().contains("--sheet"));
            assertFalse(call("status", "--help").out().contains("--sheet"));
        }

        @Test
        void isThatOfTheCommandHelp() {
            assertEquals(call("--help"), call("help"));
            for (var command : COMMANDS) assertEquals(call(command, "--help"), call("help", command));
        }

        @Test
        void isAsWideAsTheTerminalWithinLimits() {
            for (var command : COMMANDS)
                for (int columns : List.of(60, 80, 120)) call(columns, command, "--help-all").out().lines()
                        .forEach(line -> assertTrue(line.length() <= columns, line));
            assertEquals(call(60, "run", "--help"), call(20, "run", "--help"));
            assertEquals(call(120, "run", "--help"), call(300, "run", "--help"));
        }

        @ParameterizedTest
        @ValueSource(strings = {"run", "retry"})
        void fitsOnAScreenWithoutRarelyUsedOptions(String command) {
            var help = call(command, "--help").out();
            var rare = List.of("--settle", "--grace", "--user", "--initial-retry-delay",
                    "--max-retry-delay", "--retry-failed-runs", "--no-check", "--files", "--no-bom");

            assertTrue(help.lines().count() <= 60, help);
            assertTrue(help.lines().filter(line -> line.matches(" +-.*")).count() <= 32, help);
            for (var option : rare) assertFalse(help.contains(option + "=") || help.contains(option + " "), option);
            for (var option : rare) assertTrue(call(command, "--help-all").out().contains("      " + option), option);
        }

        @Test
        void hasExamplesThatCanBeTyped() {
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
        void startsExamplesAsTheToolWasStarted() {
            var env = new Env(Map.of("NO_COLOR", "1")::get, List.of(),
                    "./jbang DifyExec.java");
            var out = new StringWriter();
            commandLine(env).setOut(new PrintWriter(out)).execute("status", "--help");

            assertTrue(out.toString().contains("\n  ./jbang DifyExec.java status -o results.jsonl\n"), out::toString);
        }

        @Test
        void writesWordsAsCompletionOffersThem() {
            assertTrue(call("generate-completion").out().contains("\"auto\" \"blocking\" \"streaming\""));
        }
    }

    @Nested
    class TheTree {
        private static Set<String> commands(String... args) {
            return commandLine(Given.env(Map.of()), args).getSubcommands().keySet();
        }

        @Test
        void hasOnlyTheNamedCommandIfThatNeedsNoOther() {
            for (var name : List.of("run", "retry", "status", "export", "compare", "merge", "check", "verify",
                    "pull"))
                assertEquals(Set.of(name), commands(name, "-o", "status"));
            for (var first : List.of("", "--help", "help", "shell", "generate-completion", "statsu"))
                assertTrue(commands(first).containsAll(TheHelp.COMMANDS), first);
        }
    }

    @Nested
    class AMistypedWord {
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                typed                              | word        | hint
                runn -i a.csv -o b.jsonl           | runn        | run
                exprot                             | exprot      | export
                frobnicate                         | frobnicate  | did you mean
                rnu                                | rnu         | did you mean run?
                retyr                              | retyr       | did you mean retry?
                run --progres off -i a -o b        | --progres   | did you mean --progress?
                run --dry-run -i a -o b            | --dry-run   | check
                retry --quiet -i a -o b            | --quiet     | --progress off
                status --quiet -o b                | --quiet     | --help
                run --timout 5 -i a.csv -o b.jsonl | --timout    | --timeout
                run --inptu a.csv -o b.jsonl       | --inptu     | --input
                run --frobnicate -i a -o b         | --frobnicate| did you mean
                status -o b.jsonl -c 5             | -c          | --help
                run data.csv                       | data.csv    | -i data.csv
                run data.csv -o b.jsonl            | data.csv    | -i data.csv
                run -o b.jsonl -i a.csv c.csv      | c.csv       | --help
                -i data.csv run                    | -i          | after the command
                """)
        void isNamedWithAHint(String typed, String word, String hint) {
            var call = call(typed.split(" "));

            assertEquals(Exit.UNUSABLE.code, call.code());
            assertTrue(call.err().startsWith("difyexec: ") && call.err().contains(word), call.err());
            assertTrue(call.hint().orElse("none").contains(hint), call.err());
            assertEquals(2, call.err().lines().count(), call.err());
        }

        @ParameterizedTest
        @CsvSource(delimiter = '|', textBlock = """
                run -i a.csv -o b.jsonl -c 5 -c 6                       | --concurrency
                run -i a.csv -o b.jsonl --timeout 5 --timeout=6         | --timeout
                run -i a.csv -o b.jsonl --user=                         | --user
                run -i a.csv -o b.jsonl --workflow-id=_                 | --workflow-id
                run -i a.csv -o b/                                      | --output
                run -i a.csv -o b.jsonl --save-files=                   | --save-files
                status -o b/                                            | --output
                merge -i a.csv -o b/                                    | --output
                compare - b.jsonl                                       | standard input
                run -i a.csv -o b.jsonl --base-url //127.0.0.1/v1       | --base-url
                run -i a.csv -o b.jsonl --mode fast                     | BLOCKING
                """)
        void aValueThatCannotBeUsedIsRefused(String typed, String named) {
            var call = call(Stream.of(typed.split(" +")).map(word -> word.replace('_', ' ')).toArray(String[]::new));

            assertEquals(Exit.UNUSABLE.code, call.code(), call.err());
            assertTrue(call.err().startsWith("difyexec: ") && call.err().contains(named), call.err());
        }

        @Test
        void outOfMemoryIsOneSentence(@TempDir Path folder) throws IOException {
            var csv = Files.writeString(folder.resolve("a.csv"), "id\n1\n").toString();
            var err = new StringWriter();
            var env = new Env(name -> {
                if (name.equals("DIFY_CA_FILE")) throw new OutOfMemoryError("Java heap space");
                return name.equals("DIFY_API_KEY") ? "app-x" : null;
            }, List.of(), "difyexec");

            assertEquals(Exit.STOPPED.code, commandLine(env).setErr(new PrintWriter(err)).execute("check", "-i", csv));
            assertEquals(2, err.toString().lines().count(), err::toString);
            assertTrue(err.toString().contains("\nhint: "), err::toString);
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
                """)
        void aDurationIsSecondsUnlessItNamesItsUnit(String text, long millis) {
            assertEquals(Duration.ofMillis(millis), CommandLines.Converters.duration(text));
        }

        @ParameterizedTest
        @ValueSource(strings = {"", "abc", "-1", "1,5", ".5", "5 minutes", "1e3", "5d", "٣",
                "99999999999999999999"})
        void anInvalidDurationIsRefused(String text) {
            assertThrows(CommandLine.TypeConversionException.class, () -> CommandLines.Converters.duration(text));
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
            assertEquals(address, CommandLines.Converters.address(text));
        }

        @ParameterizedTest
        @ValueSource(strings = {"", "api.dify.ai/v1", "ftp://dify.example", "file:/v1", "https://", "https:///v1",
                "http://two words", "https://dify.example/v1?key=1", "https://dify.example/v1#top",
                "https://me:secret@dify.example/v1"})
        void anInvalidAddressIsRefusedWithoutRepeatingIt(String text) {
            var problem = assertThrows(CommandLine.TypeConversionException.class,
                    () -> CommandLines.Converters.address(text));

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
            assertEquals(reached, CommandLines.Converters.ceiling(text).isReached(failed, ended));
        }

        @ParameterizedTest
        @ValueSource(strings = {"", "0", "-1", "0%", "101%", "1.5%", "5 %", "%", "many", "9999999999"})
        void anInvalidCeilingIsRefused(String text) {
            assertThrows(CommandLine.TypeConversionException.class, () -> CommandLines.Converters.ceiling(text));
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
            assertEquals(Duration.ofMillis(millis), CommandLines.Converters.rate(text).interval());
        }

        @ParameterizedTest
        @ValueSource(strings = {"", "10", "0/s", "0.0/m", "-1/s", "10/d", "ten/s", "10 /s", "1/0"})
        void anInvalidRateIsRefused(String text) {
            assertThrows(CommandLine.TypeConversionException.class, () -> CommandLines.Converters.rate(text));
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
        void anInvalidConcurrencyIsRefused(long concurrency, Integer wait) {
            var pace = new Work.PaceOptions();
            pace.concurrency = concurrency;
            pace.wait = wait == null ? null : seconds(wait);

            var problem = assertThrows(Unusable.class, pace::concurrency);

            assertEquals(Exit.UNUSABLE, problem.exit);
        }
    }
}

package difyexec;

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
                "export-help.txt, export", "merge-help.txt, merge", "check-help.txt, check", "shell-help.txt, shell"})
        void isTheOneInTheGoldenFile(String golden, String command) throws IOException {
            var out = new StringWriter();
            var line = commandLine(Env.of(Map.of("DIFY_API_KEY", "app-secret-of-mine")))
                    .setOut(new PrintWriter(out));

            int code = command == null ? line.execute("--help") : line.execute(command, "--help");

            assertEquals(OK, code);
            assertFalse(out.toString().contains("secret"));
            Golden.check(golden, out.toString());
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
            assertEquals(Duration.ofMillis(millis), new Durations().convert(text));
        }

        @ParameterizedTest
        @ValueSource(strings = {"", "abc", "-1", "1,5", ".5", "5 minutes", "1e3", "5d", "٣", "8761h",
                "99999999999999999999"})
        void whatIsNoDurationIsRefused(String text) {
            assertThrows(CommandLine.TypeConversionException.class, () -> new Durations().convert(text));
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
            assertEquals(address, new Addresses().convert(text));
        }

        @ParameterizedTest
        @ValueSource(strings = {"", "api.dify.ai/v1", "ftp://dify.example", "file:/v1", "https://", "https:///v1",
                "http://two words", "https://dify.example/v1?key=1", "https://dify.example/v1#top",
                "https://me:secret@dify.example/v1"})
        void whatIsNoAddressIsRefusedWithoutRepeatingIt(String text) {
            var problem = assertThrows(CommandLine.TypeConversionException.class,
                    () -> new Addresses().convert(text));

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
            assertEquals(reached, new Ceiling.Converter().convert(text).isReached(failed, ended));
        }

        @ParameterizedTest
        @ValueSource(strings = {"", "0", "-1", "0%", "101%", "1.5%", "5 %", "%", "many", "9999999999"})
        void whatIsNoCeilingIsRefused(String text) {
            var converter = new Ceiling.Converter();

            assertThrows(CommandLine.TypeConversionException.class, () -> converter.convert(text));
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
            assertEquals(Duration.ofMillis(millis), new Rate.Converter().convert(text).interval());
        }

        @ParameterizedTest
        @ValueSource(strings = {"", "10", "0/s", "0.0/m", "-1/s", "10/d", "ten/s", "10 /s", "1/0"})
        void whatIsNoRateIsRefused(String text) {
            var converter = new Rate.Converter();

            assertThrows(CommandLine.TypeConversionException.class, () -> converter.convert(text));
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

            assertEquals(UNUSABLE, code);
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
            var pace = new PaceOptions();
            pace.concurrency = concurrency;
            pace.wait = wait == null ? null : seconds(wait);

            assertEquals(slots, pace.concurrency());
        }

        @ParameterizedTest
        @CsvSource(nullValues = "-", value = {"10001, -", "99999999999, -", "2, 1"})
        void aConcurrencyThatCannotBeIsRefused(long concurrency, Integer wait) {
            var pace = new PaceOptions();
            pace.concurrency = concurrency;
            pace.wait = wait == null ? null : seconds(wait);

            var problem = assertThrows(Unusable.class, pace::concurrency);

            assertEquals(UNUSABLE, problem.code());
        }
    }
}

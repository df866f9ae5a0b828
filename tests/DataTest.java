package difyexec;

import com.fasterxml.jackson.databind.DeserializationFeature;
import org.jline.terminal.spi.*;
import org.junit.jupiter.api.*;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.DifyExec.Response.RunStatus;
import static difyexec.Given.*;
import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.*;

/// Data and its basics: times, text, settings.
final class DataTest {
    @Nested
    class CoreDataTypes {
        /// `succeeded A`, `failed A`, `error`, separated by commas.
        private static List<Response> ends(String words) {
            return Stream.of(words.split(", ")).<Response>map(word -> switch (word) {
                case "error" -> Response.Refused.event(500, "", "boom", Optional.empty());
                default -> ran(word.substring(word.length() - 1), RunStatus.of(word.split(" ")[0])
                        .orElseThrow(), "");
            }).toList();
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', nullValues = "-", textBlock = """
                began with | reported                 | seen as   | of run | because
                A          | succeeded A              | Ran       | A      | -
                A          | succeeded A, succeeded A | Ran       | A      | -
                A          | failed A, error          | Ran       | A      | -
                A          | paused A                 | Ran       | A      | -
                A          | succeeded B              | Cut       | A      | another run
                A          | failed B                 | Cut       | A      | another run
                A          | failed A, succeeded A    | Cut       | A      | two results
                A          | succeeded A, failed A    | Cut       | A      | two results
                A          | paused A, succeeded A    | Cut       | A      | two results
                A          | succeeded A, succeeded B | Cut       | A      | two results
                A          | succeeded A, error       | Cut       | A      | two results
                -          | error                    | Refused   | -      | -
                A          | error                    | Refused   | A      | -
                A          | error, succeeded A       | Refused   | A      | -
                A          | error, failed B          | Refused   | A      | -
                """)
        void aStreamIsTrustedOnlyIfItReportsOneResultOfItsRun(String began, String reported, String kind, String run,
                String why) {
            var response = Response.ofEnds(Optional.ofNullable(began).map(id -> run(id)), ends(reported));

            assertEquals(kind, response.getClass().getSimpleName());
            assertEquals(Optional.ofNullable(run), response.run().map(RunRef::id));
            if (response instanceof Response.Cut(_, var symptom, var because)) {
                assertEquals(Symptom.CONTRADICTED, symptom);
                assertTrue(because.contains(why), because);
            }
        }

        @Test
        void aRunIsTheSameEvenIfItsTaskIdIsKnownOnlyAtItsEnd() {
            var began = Optional.of(new RunRef("A", ""));

            assertInstanceOf(Response.Ran.class, Response.ofEnds(began, ends("succeeded A")));
        }

        @Test
        void aRowKeepsTheOrderOfItsColumnsAndCannotBeChanged() {
            var cells = new LinkedHashMap<String, String>();
            for (var name : List.of("id", "zebra", "apple", "mango")) cells.put(name, name);
            var row = new Row(0, 2, "id", cells);

            assertEquals(List.of("id", "zebra", "apple", "mango"), List.copyOf(row.inputs().keySet()));
            assertThrows(UnsupportedOperationException.class, () -> row.inputs().put("id", "other"));
            assertThrows(IllegalArgumentException.class, () -> new Row(0, 2, " ", cells));
        }

        @Test
        void anEditedRowHasANewHashUnlessItsCellsAreUnchanged() {
            var inCsv = new Row(0, 2, "a", Map.of("id", "a", "text", "x"));

            var edited = inCsv.with(Map.of("text", "y"));

            assertEquals(HexFormat.of().toHexDigits(Fingerprint.hash(Map.of("id", "a", "text", "y"))), edited.hash());
            assertTrue(edited.isEdited());
            for (var same : List.of(inCsv, inCsv.with(Map.of("text", "x"))))
                assertEquals(List.of(false, inCsv.hash()), List.of(same.isEdited(), same.hash()));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, nullValues = "-", textBlock = """
                word,              status
                succeeded,         SUCCEEDED
                partial-succeeded, PARTIAL
                failed,            FAILED
                stopped,           STOPPED
                paused,            PAUSED
                running,           RUNNING
                scheduled,         RUNNING
                something-new,     -
                """)
        void aRunStatusIsParsedFromDifysWordForIt(String word, RunStatus status) {
            assertEquals(Optional.ofNullable(status), RunStatus.of(word));
        }

        @ParameterizedTest
        @EnumSource(RowStatus.class)
        void aRowStatusIsParsedFromItsWordInTheLog(RowStatus status) {
            assertEquals(Optional.of(status), RowStatus.of(status.word()));
        }

        @Test
        void aRunIsStoppedOnlyIfItIsOverdueAndOnlyOnce() {
            var late = lookUp(attempt(0, 0), cut(Symptom.TIMED_OUT, run("run-1")), 0);
            var stops = new ArrayList<Boolean>();
            for (int look = 0; look < 3; look++) {
                stops.add(late.question(NOON, seconds(300)).stopsFirst());
                late.lookAgain(LookUp.Stage.OVERDUE, NOON);
            }

            assertEquals(List.of(false, true, false), stops);
        }

        private static List<Instant> dueTimes(LookUp lookUp, int looks) {
            return Stream.generate(() -> lookUp.lookAgain(LookUp.Stage.ACTIVE, NOON)).limit(looks).toList();
        }

        @Test
        void pausesBetweenLookUpsGrowFromHalfASecondTo15Seconds() {
            var due = dueTimes(lookUp(attempt(0, 0), cut(Symptom.CUT), 300), 20);

            assertEquals(NOON.plusMillis(500), due.getFirst());
            assertEquals(NOON.plusSeconds(15), due.getLast());
            assertEquals(due.stream().sorted().toList(), due);
        }

        @Test
        void aRunReportedAsStoppedIsLookedUpOnceMoreAfterTwoSeconds() {
            var lookUp = lookUp(attempt(0, 0), cut(Symptom.CUT), 300);

            assertEquals(NOON.plusSeconds(2), lookUp.lookAgain(LookUp.Stage.ENDED, NOON));
            assertEquals(NOON.plusMillis(750), lookUp.lookAgain(LookUp.Stage.ENDED, NOON));
        }

        @Test
        void aLookUpIsDueExactlyAtTheDeadline() {
            var lookUp = lookUp(attempt(0, 0), cut(Symptom.CUT), 1);

            assertEquals(NOON.plusSeconds(1), dueTimes(lookUp, 8).getLast());
            var next = lookUp.lookAgain(LookUp.Stage.ACTIVE, NOON.plusSeconds(1));
            assertTrue(next.isAfter(NOON.plusSeconds(9)));
        }

        @Test
        void theDeadlineOfARunCountsFromItsEarliestKnownStart() {
            var lookUp = lookUp(attempt(0, 0), cut(Symptom.CUT), 40);
            lookUp.note(running("run-1"), NOON.plusSeconds(9), seconds(40));
            assertEquals(NOON, lookUp.start());

            for (int age : new int[] {6, 4})
                lookUp.note(running("run-1", seconds(age)), NOON.plusSeconds(9), seconds(40));

            assertEquals(NOON.plusSeconds(3), lookUp.start());
            assertTrue(lookUp.isOver(NOON.plusSeconds(43)) && !lookUp.isOver(NOON.plusSeconds(42)));
        }

        /// A collision would give a row the run of another one.
        @Test
        void keepsTheFirstNumberOfEachKeyInATable() {
            var random = new Random(7);
            var table = new LongTable();
            var expected = new HashMap<Long, Integer>();
            for (int number = 0; number < 100_000; number++) {
                // from a narrow range, so that keys come again and neighbours share slots
                long key = random.nextLong(1, 50_000) << (number % 2 * Integer.SIZE);
                expected.putIfAbsent(key, number);
                assertEquals(expected.get(key), table.putIfAbsent(key, number), () -> "key " + key);
            }
        }
    }

    @Nested
    class LatencyPercentiles {
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                rows, p50,   p90,   p99,   max
                1,    0.001, 0.001, 0.001, 0.001
                2,    0.001, 0.002, 0.002, 0.002
                10,   0.005, 0.009, 0.010, 0.010
                100,  0.050, 0.090, 0.099, 0.100
                1000, 0.500, 0.900, 0.990, 1.000
                """)
        void areTheSmallestValuesThatCoverTheirShareOfRows(int rows, double p50, double p90, double p99, double max) {
            var figures = new Figures();
            for (int row = 0; row < rows; row++)
                figures.countOutcome(row, RowStatus.PENDING, Outcome.SUCCEEDED, (rows - row) / 1000.0);

            assertEquals(Map.of("p50", p50, "p90", p90, "p99", p99, "max", max), figures.latencies());
        }

        @Test
        void areCappedIfATimeIsImpossiblyLong() {
            var figures = new Figures();
            assertEquals(Map.of(), figures.latencies());

            figures.countOutcome(0, RowStatus.PENDING, Outcome.SUCCEEDED, 1e300);

            assertEquals(Integer.MAX_VALUE / 1000.0, figures.latencies().get("max"));
        }

        @Test
        void includeOnlyTheLatestSuccessOfEachRow() {
            var figures = new Figures();
            figures.countOutcome(0, RowStatus.PENDING, Outcome.failed("no"), 1.0);
            figures.countOutcome(1, RowStatus.PENDING, Outcome.SUCCEEDED, 2.0);
            figures.countOutcome(1, RowStatus.SUCCEEDED, Outcome.failed("no"), 3.0);
            figures.countOutcome(2, RowStatus.FAILED, Outcome.SUCCEEDED, 4.0);
            figures.countOutcome(2, RowStatus.SUCCEEDED, Outcome.SUCCEEDED, 5.0);

            assertEquals(List.of(2.0, 5.0, 5.0, 5.0), List.copyOf(figures.latencies().values()));
        }
    }

    @Nested
    class FormattedText {
        @Test
        void hasSpacesInsteadOfControlAndBidiCharacters() {
            assertEquals("a b c d e f g", Text.printable("a\u001bb\u202ec\u0000d\u2028e\u009bf\u200bg", 100));
            assertEquals(" [31mred ", Text.printable("\u001b[31mred\n", 100));
            assertEquals("größer 日本語 😀", Text.printable("größer 日本語 😀", 100));
            assertEquals("\uFFFD end", Text.printable("\ud83d end", 100));
        }

        @Test
        void isCutWithAnEllipsisIfItIsTooLong() {
            assertEquals("12345", Text.printable("12345", 5));
            assertEquals("12345…", Text.printable("123456", 5));
        }

        @Test
        void isNeverCutInTheMiddleOfACharacter() {
            for (int longest = 1; longest < 8; longest++) {
                var cut = Text.printable("ab😀😀😀", longest);

                assertEquals(cut, new String(cut.getBytes(UTF_8), UTF_8));
            }
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', quoteCharacter = '`', textBlock = """
                message                                                   | cause
                no such city                                              | no such city
                HTTP 503 Service Unavailable                              | HTTP 503 Service Unavailable
                429 Client Error: Too Many Requests                       | 429 Client Error: Too Many Requests
                Error code: 400 - {'code': 500}                           | Error code: 400 - {'code': 500}
                error code 100245 in row 17                               | error code … in row …
                needs 0.5, has 12.75 of 1,234,567                         | needs …, has … of …
                POST http://127.0.0.1:9009/echo/4711?n=12                 | POST http://…/echo/…?n=…
                upload of scan-0017.png: HTTP 413                         | upload of scan-….png: HTTP 413
                run 0b7f3a9e-1c2d-4e5f-8a9b-0c1d2e3f4a5b!                 | run …!
                run abcdefab-1c2d-4e5f-8a9b-0c1d2e3f4a5b!                 | run …!
                run difyexec-0123456789abcdef-12                          | run difyexec-…
                at 0x7f3a, commit 3f9a2c7, chatcmpl-8xQ7bZpLk2VtYw9RsT4u  | at …, commit …, chatcmpl-…
                no response within 2 min 5 s (--timeout), run 0b7f3a9e1  | no response within 2 min 5 s (--timeout), run …
                too large; set JDK_JAVA_OPTIONS=-Xmx4g                    | too large; set JDK_JAVA_OPTIONS=-Xmx4g
                due 2026-01-16T12:00:05.123Z, 2026-01-16 or 9:30          | due …, … or …
                """)
        void aFailureCauseIsItsMessageWithoutPartsThatVaryByRow(String message, String cause) {
            assertEquals(cause, Text.cause(message));
        }

        @Test
        void aRateThatWouldBeShownAsZeroIsLeftOut() {
            assertEquals(List.of("", "0.1 rows/s"), List.of(Figure.rate(0.04), Figure.rate(0.06)));
        }

        @Test
        void aFailureCauseIsTheSameForAMessageShortenedInTheLog() {
            for (int at = 0; at < 520; at++) {
                var message = "x".repeat(at) + " run 4711 of 10.0.0.17 " + "y".repeat(600);

                assertEquals(Text.cause(message), Text.cause(Text.printable(message, 500)));
            }
        }

        @Test
        void aFailureCauseIsShortenedAfterReplacingItsVariableParts() {
            var tail = " " + "word ".repeat(100);

            assertEquals(Text.cause("row 1234567" + tail), Text.cause("row 12" + tail));
            assertEquals(161, Text.cause("row 12" + tail).length());
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                millis,   text
                0,        0 s
                446,      0.45 s
                9940,     9.94 s
                10000,    10 s
                59940,    59.9 s
                119000,   1 min 59 s
                185000,   3 min 5 s
                7800000,  2 h 10 min
                90000000, 25 h 0 min
                """)
        void aDurationIsPrintedInAtMostTwoUnits(long millis, String text) {
            assertEquals(text, Text.seconds(Duration.ofMillis(millis)));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                amount,     text
                0.630,      0.63 USD
                0.00034951, 0.0003495 USD
                0E-7,       0 USD
                1234.56,    '1,235 USD'
                """)
        void anAmountOfMoneyHasFourSignificantDigitsAndItsCurrency(BigDecimal amount, String text) {
            assertEquals(text, Text.money(amount, "USD"));
        }

        @ParameterizedTest
        @CsvSource(delimiter = '|', quoteCharacter = '`', useHeadersInDisplayName = true, textBlock = """
                word       | typed
                data.csv   | data.csv
                a b.csv    | 'a b.csv'
                it's.csv   | 'it'\\''s.csv'
                $HOME.csv  | '$HOME.csv'
                größe.csv  | größe.csv
                ``         | ''
                """)
        void aWordIsQuotedForAShellOnlyIfNeeded(String word, String typed) {
            assertEquals(typed, Platform.UNIX.quote(word));
        }

        @ParameterizedTest
        @CsvSource(delimiter = '|', quoteCharacter = '`', useHeadersInDisplayName = true, textBlock = """
                word              | typed
                C:\\data\\größe.csv | C:\\data\\größe.csv
                C:\\my files\\     | "C:\\my files\\\\"
                a\\"b              | "a\\\\\\"b"
                ,                 | ","
                @x                | "@x"
                #                 | "#"
                --demo            | --demo
                ``                | ""
                """)
        void aWordIsQuotedForBothShellsOfWindows(String word, String typed) {
            assertEquals(typed, Platform.WINDOWS.quote(word));
        }

        @ParameterizedTest
        @CsvSource(delimiter = '|', useHeadersInDisplayName = true, textBlock = """
                charset      | text
                UTF-8        | über · 3 × … █ 結
                windows-1252 | über · 3 × … # ?
                IBM850       | über · 3 × ~ █ ?
                IBM437       | über · 3 x ~ █ ?
                US-ASCII     | ?ber - 3 x ~ # ?
                """)
        void aCharacterThatAConsoleLacksIsReplacedByOneOfTheSameWidth(Charset charset, String text) {
            assertEquals(text, Text.encodable("über · 3 × … █ 結", charset));
        }

        @Test
        void aTerminalWithoutAKnownWidthCountsAs80Columns() {
            for (var failure : List.of(new NoSuchElementException(), new ExceptionInInitializerError("no ioctl"))) {
                var provider = (TerminalProvider) java.lang.reflect.Proxy.newProxyInstance(getClass().getClassLoader(),
                        new Class<?>[] {TerminalProvider.class}, (_, _, _) -> {
                            throw failure;
                        });
                assertEquals(80, new Screen(provider, SystemStream.Output).width());
            }
        }

        @Test
        void anActionIsRepeatedIfWindowsMayRefuseItForAnOpenFile() throws IOException {
            for (var refusal : List.of(new AccessDeniedException("a"), new FileSystemException("a", null, "in use"),
                    new FileNotFoundException("a (in use)"), new NoSuchFileException("a"))) {
                boolean mayBeInUse = !(refusal instanceof NoSuchFileException);
                var tries = new AtomicInteger();
                IOSupplier<String> action = () -> {
                    if (tries.incrementAndGet() < 3) throw refusal;
                    return "done";
                };

                assertThrows(refusal.getClass(), () -> Platform.UNIX.retryWhileInUse(AtomicFile.PATIENCE, action));
                assertThrows(refusal.getClass(), () -> Platform.WINDOWS.retryWhileInUse(Duration.ZERO, action));
                assertEquals(2, tries.getAndSet(0), "at once");
                if (mayBeInUse) assertEquals("done", Platform.WINDOWS.retryWhileInUse(AtomicFile.PATIENCE, action));
                else assertThrows(refusal.getClass(), () -> Platform.WINDOWS.retryWhileInUse(AtomicFile.PATIENCE, action));
                assertEquals(mayBeInUse, Platform.WINDOWS.remedy(new UncheckedIOException(refusal)).contains("Excel"));
                assertEquals(refusal instanceof AccessDeniedException, !Platform.UNIX.remedy(refusal).isEmpty());
                assertFalse(Platform.UNIX.remedy(refusal).contains("Excel"));
            }
        }

        @Test
        void aTextThatIsNoPathHereIsNoError() {
            assertEquals(Optional.empty(), Storage.path("a\0b")); // as what?.csv on Windows
            var input = new Event.SessionEvent.RecordedInput("a\0b", null, List.of(), "");
            assertEquals(Optional.empty(), input.file(Path.of("results.jsonl")));
        }

        @Test
        void whatASystemNeedsIsDecidedByItsName() {
            assertEquals(Optional.of("jni"), Platform.WINDOWS.terminalProvider(true));
            assertEquals(Optional.of("exec"), Platform.UNIX.terminalProvider(false));
            assertEquals(Optional.empty(), Platform.UNIX.terminalProvider(true));
            assertEquals(List.of("cmd", "/s", "/c", "\"\"C:\\my editor.exe\" \"a.txt\"\""),
                    Platform.WINDOWS.command("\"C:\\my editor.exe\" \"a.txt\""));
            assertEquals(List.of("sh", "-c", "vi a.txt"), Platform.UNIX.command("vi a.txt"));
            var settings = Map.of("LOCALAPPDATA", "/local");
            assertEquals(Path.of("/local/difyexec"),
                    Platform.WINDOWS.stateFolder(name -> settings.getOrDefault(name, ""), "/home/ann"));
            assertEquals(Path.of("/home/ann/.local/state/difyexec"),
                    Platform.UNIX.stateFolder(name -> settings.getOrDefault(name, ""), "/home/ann"));
            assertEquals(Path.of("/chosen/difyexec"), Platform.WINDOWS.stateFolder(_ -> "/chosen", "/home/ann"));
        }

        @Test
        void exceptionsAreDescribedInPlainWords() {
            assertEquals("permission denied: x", Text.reason(new AccessDeniedException("x")));
            assertEquals("no such file: x", Text.reason(new NoSuchFileException("x")));
            assertEquals("unknown host", Text.reason(new UnknownHostException("dify.example")));
            assertEquals("Connection refused", Text.reason(new ConnectException("Connection refused")));
            assertEquals("closed channel", Text.reason(new ClosedChannelException()));
            assertEquals("lost", Text.reason(new UncheckedIOException(new IOException("lost"))));
            assertEquals("closed channel", Text.reason(new IOException(new ClosedChannelException())));
            assertEquals("a b", Text.reason(new IOException("a\nb")));
        }
    }

    @Nested
    class EnvironmentSettings {
        private static Access access(Env env, String baseUrl, StringWriter err) {
            var options = new Setup.ServerOptions();
            options.baseUrl = URI.create(baseUrl);
            return options.access(env, "", true, new PrintWriter(err));
        }

        @Test
        void comeFromTheFirstSourceThatHasAValue(@TempDir Path here, @TempDir Path script) throws IOException {
            Files.writeString(here.resolve(".env"), "A=2\nB=3\nC=4\nD=\n");
            Files.writeString(script.resolve(".env"), "C=5\nD=6\n");
            var all = env(Map.of("A", "1", "B", ""), here, script);

            assertEquals("1", all.get("A"));
            assertEquals("3", all.get("B")); // an empty value counts as unset
            assertEquals("4", all.get("C"));
            assertEquals("6", all.get("D"));
            assertEquals("", all.get("E"));
            assertEquals("A=1", all.setting("A").orElseThrow().place());
            assertEquals("C in " + here.resolve(".env"), all.setting("C").orElseThrow().place());
        }

        @ParameterizedTest
        @CsvSource(delimiter = '|', quoteCharacter = '`', useHeadersInDisplayName = true, nullValues = "-",
                textBlock = """
                line                | value
                A=b                 | b
                A = b c             | b c
                A='b c' # d         | b c
                A="b # c" # d       | b # c
                A=b # c             | b
                A='b#c'             | b#c
                A=#b                | ``
                A==b                | =b
                A=b=c               | b=c
                A=C:\\d\\           | C:\\d\\
                A=$B$1              | $B$1
                export A="b"        | b
                exportA=b           | -
                A="b" c             | -
                A b                 | -
                """)
        void areReadWithoutQuotesFromValidLinesOfDotEnv(String line, String value, @TempDir Path folder)
                throws IOException {
            Files.writeString(folder.resolve(".env"), line);

            var setting = env(Map.of(), folder).setting("A");

            assertEquals(Optional.ofNullable(value).filter(text -> !text.isEmpty()),
                    setting.map(Env.Setting::text).filter(text -> !text.isEmpty()));
        }

        @Test
        void aFileThatNotepadHasRenamedIsNamedIfTheKeyIsMissing(@TempDir Path folder) throws IOException {
            Files.writeString(folder.resolve(".env.txt"), "DIFY_API_KEY=app-secret");
            var env = new Env(_ -> null, "difyexec", folder);

            assertTrue(env.missing("DIFY_API_KEY").contains(folder.resolve(".env.txt").toString()));
        }

        private static String missing(Path folder) {
            var problem = assertThrows(Unusable.class, () -> access(env(Map.of(), folder),
                    "https://dify.example/v1", new StringWriter()));
            assertEquals(Exit.UNUSABLE, problem.exit);
            return problem.text();
        }

        @Test
        void aMalformedDotEnvLineIsReportedWithoutItsText(@TempDir Path folder) throws IOException {
            Files.writeString(folder.resolve(".env"), "app-secret\nA=b\n" + "app-secret=\"\n".repeat(6));

            assertTrue(missing(folder).contains(folder.resolve(".env").toString()), missing(folder));
            assertFalse(missing(folder).contains("secret"), missing(folder));
        }

        @Test
        void anUnreadableDotEnvFileIsAnErrorOnlyIfItIsNeeded(@TempDir Path folder) throws IOException {
            Files.write(folder.resolve(".env"), "DIFY_API_KEY=app-secr\u00e9t\n".getBytes(
                    StandardCharsets.ISO_8859_1));

            assertTrue(missing(folder).startsWith(folder.resolve(".env") + ": "), missing(folder));
            assertEquals("", env(Map.of(), folder).get("NO_COLOR"));
        }

        @Test
        void theApiKeyIsTrimmedAndOmittedFromToString() {
            var env = env(Map.of("DIFY_API_KEY", " app-secret "));

            var access = access(env, "https://dify.example/v1", new StringWriter());

            assertEquals("app-secret", access.key());
            assertFalse(access.toString().contains("secret"));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                address,                  warned
                http://dify.example/v1,   true
                https://dify.example/v1,  false
                http://localhost:5001/v1, false
                http://127.0.0.1/v1,      false
                http://127.example/v1,    true
                http://[::1]:5001/v1,     false
                """)
        void anApiKeySentUnencryptedToAnotherHostCausesAWarning(String address, boolean warned) {
            var err = new StringWriter();

            access(env(Map.of("DIFY_API_KEY", "app-secret")), address, err);

            assertEquals(warned, err.toString().contains("not https"));
            assertFalse(err.toString().contains("secret"));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, nullValues = "-", textBlock = """
                variable,    value,                       target,                  proxy
                HTTPS_PROXY, http://proxy.example:3128,   https://dify.example/v1, http://proxy.example:3128
                https_proxy, http://proxy.example:3128,   https://dify.example/v1, http://proxy.example:3128
                HTTPS_PROXY, proxy.example:3128,          https://dify.example/v1, http://proxy.example:3128
                HTTPS_PROXY, http://me:pw@proxy.example,  https://dify.example/v1, http://me:pw@proxy.example
                HTTP_PROXY,  http://proxy.example:3128,   http://dify.example/v1,  http://proxy.example:3128
                HTTP_PROXY,  http://proxy.example:3128,   https://dify.example/v1, -
                HTTPS_PROXY, http://proxy.example:3128,   http://dify.example/v1,  -
                HTTPS_PROXY, http://proxy.example:3128,   https://127.0.0.1/v1,    -
                HTTPS_PROXY, '  ',                        https://dify.example/v1, -
                """)
        void theProxyIsChosenByTheSchemeOfTheTargetUrl(String variable, String value, URI target, URI proxy) {
            assertEquals(Optional.ofNullable(proxy), env(Map.of(variable, value)).proxy(target));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                exempt                     | host              | proxied
                dify.example               | dify.example      | false
                DIFY.example               | dify.EXAMPLE      | false
                other.example              | dify.example      | true
                example                    | dify.example      | false
                .example                   | dify.example      | false
                *.example                  | api.dify.example  | false
                a.test, dify.example ,b    | dify.example      | false
                ify.example                | dify.example      | true
                *                          | dify.example      | false
                ,                          | dify.example      | true
                """)
        void theNoProxyVariableExcludesHostsAndTheirSubdomains(String exempt, String host, boolean proxied) {
            var env = env(Map.of("HTTPS_PROXY", "http://proxy.example:3128", "NO_PROXY", exempt));

            assertEquals(proxied, env.proxy(URI.create("https://" + host + "/v1")).isPresent());
        }

        @ParameterizedTest
        @ValueSource(strings = {"socks5://me:secret@proxy.example:1080", "http://me:secret@", "me:secret@:3128",
                "http://me:secret@pro xy:3128", "https://me:secret@proxy.example",
                "http://me:secret@proxy.example:99999"})
        void anUnusableProxyIsReportedWithoutItsPassword(String value) {
            var problem = assertThrows(Unusable.class,
                    () -> env(Map.of("HTTPS_PROXY", value)).proxy(URI.create("https://dify.example/v1")));

            assertTrue(problem.text().startsWith("HTTPS_PROXY: "), problem.text());
            assertFalse(problem.text().contains("secret"), problem.text());
        }
    }

    @Nested
    class TheMonotonicClock {
        private Instant time = NOON;
        private long nanos = 7;
        private Duration slept = Duration.ZERO;
        private final InstantSource clock = clock(Optional::empty);

        private InstantSource clock(Supplier<Optional<Duration>> uptime) {
            return Times.neverBack(() -> time, () -> nanos, uptime);
        }

        private Instant after(int seconds, Duration step) {
            time = time.plusSeconds(seconds).plus(step);
            nanos += seconds * 1_000_000_000L;
            return clock.instant();
        }

        @Test
        void followsTheSystemTimeIfItIsSetForward() {
            assertEquals(NOON.plusSeconds(3), after(3, Duration.ZERO));
            assertEquals(NOON.plusSeconds(3605), after(2, Duration.ofHours(1)));
        }

        @Test
        void countsSleepButNoStepOfTheSystemTimeWhereTheTimeSinceTheStartIsKnown() {
            var clock = clock(() -> Optional.of(Duration.ofNanos(nanos).plus(slept)));

            after(3, Duration.ofHours(1));
            assertEquals(NOON.plusSeconds(3), clock.instant());
            slept = Duration.ofMinutes(10);
            after(2, Duration.ofMinutes(10));
            assertEquals(NOON.plusSeconds(605), clock.instant());
            after(2, Duration.ofHours(-2));
            assertEquals(NOON.plusSeconds(607), clock.instant());
        }

        @Test
        void keepsAdvancingIfTheSystemTimeIsSetBack() {
            after(3, Duration.ZERO);

            assertEquals(NOON.plusSeconds(5), after(2, Duration.ofHours(-1)));
            assertEquals(NOON.plusSeconds(9), after(4, Duration.ZERO));
        }

        @Test
        void keepsAdvancingIfTheSystemTimeWasAheadAndIsCorrected() {
            after(3, Duration.ofHours(1));

            assertEquals(NOON.plusSeconds(3605), after(2, Duration.ofHours(-1)));
            assertEquals(NOON.plusSeconds(3609), after(4, Duration.ZERO));
        }
    }

    @Nested
    class JsonReadingAndWriting {
        @Test
        void replacesLoneSurrogatesButKeepsEmoji() throws IOException {
            var text = "\ud83d end " + "😀".repeat(10_000) + " \ude00";
            var whole = "\uFFFD end " + "😀".repeat(10_000) + " \uFFFD";
            var out = new ByteArrayOutputStream();

            try (var writer = Json.utf8(out)) {
                writer.write(text);
            }

            assertEquals(whole, out.toString(UTF_8));
            assertArrayEquals(('"' + whole + '"').getBytes(UTF_8), Json.bytes(text));
        }

        @ParameterizedTest
        @ValueSource(strings = {"1.10", "-0.5", "12345678901234567890.123456789012345678901", "100", "0.0000000"})
        void keepsEveryDigitOfANumber(String number) throws IOException {
            assertEquals("{\"n\":" + number + "}", Json.text(Json.MAPPER.readTree("{\"n\":" + number + "}")));
        }

        /// An endless response, after its first characters: nested values, words, names.
        @ParameterizedTest
        @CsvSource(delimiter = '|', value = {"|[", "|{\"a\":", "|[{\"a\":[", "|x", "{\"a\":|x", "{\"|a", "[|\\",
                "[1,2|]"})
        void rejectsAnEndlessResponseAfterALimit(String start, String endless) {
            var read = new AtomicLong();
            var beginning = Objects.requireNonNullElse(start, "").getBytes(UTF_8);
            var in = new InputStream() {
                @Override
                public int read() {
                    long at = read.getAndIncrement();
                    if (at > 50_000_000) throw new AssertionError("still reading");
                    return at < beginning.length ? beginning[(int) at]
                            : endless.charAt((int) ((at - beginning.length) % endless.length()));
                }
            };

            var problem = assertThrows(IOException.class, () -> Json.MAPPER.reader()
                    .with(DeserializationFeature.FAIL_ON_TRAILING_TOKENS).readTree(in));

            assertTrue(problem.getMessage().length() < 5_000, () -> problem.getMessage().length() + " characters");
        }

        @Test
        void rejectsJsonThatIsNestedTooDeeply() {
            var deep = "[".repeat(1_500) + "]".repeat(1_500);

            assertThrows(IOException.class, () -> Json.MAPPER.readTree(deep));
        }
    }
}

package difyexec;

import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static java.nio.charset.StandardCharsets.ISO_8859_1;
import static java.nio.charset.StandardCharsets.UTF_16LE;
import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.*;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

/// Files as users have them, and how soon they can be sent.
final class UserFilesTest extends WholeCommand {
    private static final Charset ANSI = Charset.forName("windows-1252");
    private final Simulated dify = new Simulated("--latency", "10ms");

    UserFilesTest() throws IOException {
        dify.form("""
                [{'paragraph':{'variable':'q','label':'Frage','required':true}},
                 {'select':{'variable':'kategorie','label':'Kategorie','options':['Lieferung','Rechnung','Technik']}},
                 {'number':{'variable':'betrag','label':'Betrag'}},
                 {'text-input':{'variable':'datum','label':'Datum'}}]""");
    }

    /// Follows the commands that are shown, until one succeeds or shows none, or the user must choose.
    private List<Call> calls(String... first) throws IOException {
        var calls = new ArrayList<Call>();
        var next = Optional.of(first);
        while (next.isPresent() && calls.size() < 5) {
            calls.add(call(dify.settings(), next.get()));
            next = calls.getLast().code() == 2 ? shown(first[0], calls.getLast()) : Optional.empty();
            if (next.isPresent() && Stream.of(next.get()).anyMatch(word -> word.matches("[A-Z]+(=.*)?"))) break;
        }
        return calls;
    }

    /// Returns the words of the command that a call shows.
    private static Optional<String[]> shown(String command, Call call) throws IOException {
        var shown = Pattern.compile("difyexec " + command + " .*").matcher(call.out() + call.err());
        return shown.find() ? Optional.of(split(shown.group())) : Optional.empty();
    }

    /// Returns the words of the command that a call shows, with the encoding that reads this text.
    private static String[] chosen(String command, Call call, String text) throws IOException {
        var words = text.split("[\\s,;]");
        var named = Pattern.compile("(\\S+) \\(it reads ([^)]*)\\)").matcher(call.out() + call.err()).results()
                .filter(one -> Stream.of(one.group(2).replaceAll(", …|…", "").split(", "))
                        .allMatch(read -> Stream.of(words).anyMatch(word -> word.startsWith(read)))).findFirst();
        var encoding = named.orElseThrow(() -> new AssertionError(call.toString())).group(1);
        return Stream.of(shown(command, call).orElseThrow()).map(word -> word.replace("ENCODING", encoding))
                .toArray(String[]::new);
    }

    /// @param starts the number of starts until `check` is clean
    /// @param facts  parts of the text that the first start shows
    record Case(String name, byte[] bytes, int starts, String... facts) {
        @Override
        public String toString() {
            return name;
        }
    }

    private static Case plain(String name, Charset charset, int starts, String text, String... facts) {
        return new Case(name, text.getBytes(charset), starts, facts);
    }

    private static final String TICKETS = """
            id;Frage;Kategorie;Betrag;Datum
            7;"Wo bleibt das Päckchen für Frau Müller; es fehlt";Lieferung;12,50;01.11.2026
            8;Ich hätte gern eine Übersicht der Rechnungen für März;Rechnung;1.234,56;02.11.2026
            9;Gerät läßt sich nicht öffnen;Technik;-3;
            """;

    static List<Case> files() throws IOException {
        var wide = IntStream.range(0, 47).mapToObj(i -> "spalte_" + i).collect(Collectors.joining(","));
        var table = List.of("", "", "s:id|s:Frage|s:Kategorie", "s:7|s:Wo bleibt es?|s:Technik",
                "s:8|s:Was kostet es?|s:Rechnung");
        var titled = Stream.concat(Stream.of("s:Tickets im November"), table.stream().skip(1)).toList();
        var sheets = new LinkedHashMap<>(Map.of("Deckblatt", List.of("s:Ticketexport", "s:Stand|s:heute")));
        sheets.put("Meine Daten", table);
        return List.of(
                plain("01_ansi.csv", ANSI, 2, TICKETS, "--encoding windows-1252", "--decimal ,"),
                plain("02_bom.csv", UTF_8, 2, "\uFEFF" + TICKETS, "--decimal ,", "2 such cells"),
                plain("03_unicode.txt", UTF_16LE, 1, "\uFEFF" + TICKETS.replace("; es", ", es")
                        .replace(';', '\t').replace("1.234,56", "1234.56").replace("12,50", "12.50")),
                new Case("04_title.xlsx", FormatsTest.book(false, Map.of("Tickets", titled)), 2, "Tickets!A1",
                        "--header-row 3"),
                plain("04_title.csv", UTF_8, 2, "Tickets, Stand: November\n\n" + TICKETS, "--header-row 3"),
                plain("05_noIds.csv", UTF_8, 2, "Frage,Kategorie\nWo ist es?,Technik\nWas ist es?,Technik\n",
                        "--id-column '#'"),
                plain("06_blankIds.csv", UTF_8, 2, "id,Frage\n1,a\n,b\n3,c\n,d\n", "line 3: the id is empty",
                        "line 5: the id is empty", "--id-column '#'"),
                plain("07_chinese.csv", Charset.forName("GB18030"), 2, "编号,Frage,Kategorie\nA1,请问我的包裹在哪里,Lieferung\n"
                        + "A2,我想要一张发票，谢谢,Rechnung\n", "--encoding GB18030", "--id-column 编号"),
                plain("08_otherNames.csv", UTF_8, 0, "No,Question,Category,Amount\n1,Where?,x,1\n2,What?,y,2\n",
                        "--id-column No --map COLUMN=q", "Question: Where?"),
                plain("09_emptyCells.csv", UTF_8, 0, "id,Frage,Betrag\n1,a,\n2,,3\n3,\" \",x\n", "line 3, id 2: Frage",
                        "line 4, id 3: Frage", "line 4, id 3: Betrag", "--allow-empty"),
                new Case("10_merged.xlsx", FormatsTest.book(false, Map.of("S", List.of("s:id|s:Kategorie|s:Frage",
                        "s:7|s:Technik|s:Wo bleibt es?", "s:8||s:Was kostet es?"))), 0, "merged",
                        "B2:B3", "--allow-empty"),
                new Case("11_dates.xlsx", FormatsTest.book("s:id|s:Frage|s:Betrag|s:Datum",
                        "n:1|f:Wie?|n:1.19|n2:46327"), 1, "2026-11-01", "1.19"),
                plain("12_hostile.csv", UTF_8, 1, "id,Frage\n1,\"<b>a</b>\n{\"\"x\"\": 1}\"\n2,=SUM(A1)\n3,"
                        + "ä".repeat(47_500) + "\n"),
                plain("13_dump.jsonl", UTF_8, 2, "{\"_id\":{\"$oid\":\"65f1c0ffee\"},\"Frage\":\"a\",\"Betrag\":1.5}\n"
                        + "{\"_id\":{\"$oid\":\"65f1c0ffef\"},\"Frage\":\"b\"}\n", "--id-column"),
                plain("14_googleForm.csv", UTF_8, 2, "Timestamp,Frage\n11/1/2026 10:00:00,a\n11/1/2026 10:05:00,b\n",
                        "--id-column '#'"),
                plain("15_pandas.csv", UTF_8, 2, ",Frage,Kategorie\n0,Wo?,Technik\n1,Was?,Rechnung\n",
                        "--id-column '#'", "column 1"),
                plain("16_duplicates.csv", UTF_8, 2, "id,Frage\n1,a\n2,b\n1,c\n2,d\n", "line 4", "line 5",
                        "--id-column '#'"),
                plain("17_wide.csv", UTF_8, 1, "id,Frage,Kategorie," + wide + "\n1,Wo?,Technik" + ",x".repeat(47)
                        + "\n", "spalte_0"),
                plain("18_floatIds.csv", UTF_8, 2, "id,Frage\n1.0,a\n,b\n,c\n", "line 3", "--id-column '#'"),
                plain("19_mongo.json", UTF_8, 2,
                        "[{\"_id\":{\"$oid\":\"65f1c0ffee\"},\"Frage\":\"a\",\"Betrag\":1.5},\n"
                        + "{\"_id\":{\"$oid\":\"65f1c0ffef\"},\"Frage\":\"b\"}]\n", "--id-column '#'"),
                plain("20_total.csv", UTF_8, 0, TICKETS.replace(",", ".").replace("1.234.56", "1234.56")
                        + "Summe;;;1244.06;\n", "line 5, id Summe: Frage", "--allow-empty"),
                new Case("21_cover.xlsx", FormatsTest.book(false, sheets), 2, "--sheet 'Meine Daten'"),
                plain("23_caseNumbers.csv", UTF_8, 0, "Konto,Case Number,Frage\nK-1,00017,a\nK-2,00018,b\n"
                        + "\"Grand Total\"\n", "line 4", "--id-column 'Case Number'"),
                plain("24_twoTexts.csv", UTF_8, 0, "id,Titel,Body\n1,Ham,What about the ham?\n2,Egg,Where is it?\n",
                        "--map COLUMN=q", "Titel: Ham"),
                plain("25_quotedTsv.txt", UTF_8, 2, "id\tFrage\n1\t\"Größe\" fehlt\n2\t\"a\"\n", "line 2", "--quote none"),
                new Case("26_survey.csv", ("StartDate,ResponseId,Frage\nStart Date,Response ID,Was fehlt?\n"
                        + "\"{\"\"ImportId\"\":\"\"a\"\"}\",\"{\"\"ImportId\"\":\"\"b\"\"}\",\"{\"\"ImportId\"\":\"\"c\"\"}\"\n"
                        + "2026-11-01,R_1a,Nichts\n2026-11-01,R_2b,Alles\n").getBytes(UTF_8), 2, "--id-column '#'", "--skip-rows 2"),
                plain("27_wrapped.json", UTF_8, 2, "{\"total\": 2, \"page\": {\"data\": [\n{\"id\": 1, \"Frage\": \"a\"},\n"
                        + "{\"id\": 2, \"Frage\": \"b\"}]}}\n", "--rows /page/data"),
                plain("28_jira.csv", UTF_8, 1, "id,Frage,Comment,Comment\n1,a,x,y\n2,b,,\n", "\"Comment\""),
                plain("29_noRows.csv", UTF_8, 0, "id,Frage\n", "29_noRows.csv: no rows"),
                plain("22_ragged.csv", UTF_8, 0, "id,Frage\n1,a\n2\n3,b,c\n4,\"d\n5,e\n", "line 3", "line 4",
                        "line 5: unclosed"));
    }

    /// Runs a script in Python with openpyxl, and returns what it prints.
    static String python(String script, Path workbook) throws Exception {
        assumeTrue(File.separatorChar == '/', "no Python");
        var python = new ProcessBuilder("python3", "-W", "ignore", "-c", script, workbook.toString())
                .redirectErrorStream(true).start();
        var printed = new String(python.getInputStream().readAllBytes(), UTF_8);
        assumeTrue(python.waitFor() == 0 || !printed.contains("No module"), "no openpyxl");
        return printed.strip();
    }

    @Nested
    class TheFirstCheckOfAFile {
        static List<Case> files() throws IOException {
            return UserFilesTest.files();
        }

        /// The next start uses the command that was printed, and nothing else.
        @ParameterizedTest(name = "{0}")
        @MethodSource("files")
        void reportsAllProblemsAndSuggestsTheCommandThatWorks(Case one) throws IOException {
            var file = Files.write(file(one.name), one.bytes).toString();

            var calls = calls("check", "-i", file);

            calls.getFirst().mentions(Stream.of(one.facts).map(WholeCommand::quotedHere).toArray(String[]::new));
            calls.getLast().exits(one.starts == 0 ? 2 : 0);
            if (one.starts > 0) assertEquals(one.starts, calls.size(), calls::toString);
            assertEquals(0, dify.runs());
        }
    }

    @Nested
    class TheEncodingOfAFile {
        /// Nobody says the encoding, and the detector knows only some of these. If several encodings fit, the user
        /// chooses by the words.
        @ParameterizedTest
        @CsvSource(delimiter = '|', textBlock = """
                windows-31j   | 2 | 注文①が㈱髙橋から届きません
                windows-31j   | 2 | 「ﾌﾟﾘﾝﾀ」②の件、至急
                windows-31j   | 2 | ﾊﾝﾄﾞﾙの注文、商品Aです
                x-windows-949 | 2 | 안녕하세요 주문이 아직 도착하지 않았습니다
                GB18030       | 2 | 请问我的包裹在哪里，我想要一张发票
                Big5          | 2 | 請問我的包裹在哪裡，我想要一張發票
                ISO-8859-2    | 2 | Zażółć gęślą jaźń, proszę o zwrot pieniędzy za książkę
                windows-1250  | 2 | Książka się nie otwiera, proszę pomóżcie, świetna źródło
                x-MacRoman    | 2 | Die Größe der Straße für Müller ist öde
                windows-1252  | 2 | Müller’s Größe für 5 € – déjà vu
                windows-1251  | 2 | Где мой заказ, я жду уже неделю
                windows-1254  | 2 | Şikâyetim var, kargom İstanbul'a hiç ulaşmadı
                windows-1256  | 2 | مرحبا، أين طلبي من الأسبوع الماضي
                windows-1257  | 2 | Kur yra mano užsakymas, laukiu jau savaitę
                windows-1258  | 2 | Đơn hàng tôi đâu
                ISO-8859-9    | 2 | Şikâyetim var, kargom İstanbul'a hiç ulaşmadı
                windows-1253  | 2 | Πού είναι η παραγγελία μου, περιμένω μια εβδομάδα
                ISO-2022-JP   | 2 | これは日本語のテキストです
                ISO-2022-KR   | 2 | 안녕하세요 주문이 아직 도착하지 않았습니다
                UTF-16LE      | 1 | Größe ① 注文
                UTF-16BE      | 1 | Größe ① 注文
                UTF-32LE      | 1 | Größe ① 注文
                UTF-32BE      | 1 | Größe ① 注文
                """)
        void isFoundOrSuggested(String encoding, int starts, String text) throws IOException {
            assumeTrue(Charset.isSupported(encoding));
            for (var mark : starts == 1 ? List.of("", "\uFEFF") : List.of("")) {
                Files.write(file("data.csv"), (mark + "id,Frage\n1,\"" + text + "\"\n2,x\n").getBytes(encoding));

                var first = dify.check("--show", "1").exits(starts == 1 ? 0 : 2);
                if (starts == 1) first.shows("\"q\":\"" + text + "\"");
                if (starts == 1) continue;
                call(dify.settings(), chosen("check", first, text)).exits(0).shows("\"q\":\"" + text + "\"");
            }
        }

        /// Next month, the file is exported in another way.
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                before,       start,  text
                windows-1252, '',     Größe
                windows-1252, BOM,    Size
                GB18030,      '',     数据
                """)
        void isTypedAgainIfTheFileIsUtf8ByNow(String before, String start, String text) throws IOException {
            csv("id,Frage", "1,a");
            dify.run("--encoding", before).exits(0);
            csv(start.replace("BOM", "\uFEFF") + "id,Frage", "1,a", "2," + text);

            dify.run().exits(2).reports("UTF-8", before).hints("--encoding UTF-8");
            assertEquals(1, dify.runs());
            assertFalse(ofBatch("status", "--encoding", "UTF-8").exits(3).next().contains("--encoding " + before));

            dify.run("--encoding", "UTF-8").exits(0);
            dify.run().exits(0);
            assertEquals(text, result("2").path("inputs").path("Frage").asText());
        }

        /// These letters of windows-1252 are valid UTF-8, too.
        @Test
        void staysThatOfTheFileIfItIsTyped() throws IOException {
            Files.write(file("data.csv"), "id,Frage\n1,NESCAFÉ®\n".getBytes(ANSI));

            dify.run("--encoding", "windows-1252").exits(0);

            assertEquals("NESCAFÉ®", result("1").path("inputs").path("Frage").asText());
        }

        @Test
        void isNamedTwiceIfTwoReadTheFileAsWell() throws IOException {
            Files.write(file("data.csv"), "id,Frage\n1,déjà vu\n".getBytes(ANSI));

            dify.check().exits(2).mentions("windows-1252 (it reads déjà)", "windows-1250 (it reads déjŕ)");
        }

        /// The first line reads the same in both.
        @Test
        void isShownByTheLineThatDistinguishesIt() throws IOException {
            Files.write(file("data.csv"), "id,Frage\n1,Größe\n2,déjà vu\n3,Größe\n".getBytes(ANSI));

            dify.check().exits(2).mentions("line 2:", "windows-1252 (it reads déjà)", "windows-1250 (it reads déjŕ)");
        }

        /// Each of these reads all bytes as letters, so only a person can choose.
        @Test
        void isShownForAtMostEight() throws IOException {
            Files.write(file("data.csv"), "id,Frage\n1,ه à\n".getBytes("windows-1256"));

            var check = dify.check().exits(2).mentions("windows-1256 (it reads ه, à)", "windows-1251 (it reads е, а)",
                    "windows-1252 (it reads å, à)", "--encoding ENCODING");

            var read = Pattern.compile("\\(it reads ([^)]*)\\)").matcher(check.out()).results().map(one -> one.group(1)).toList();
            assertTrue(read.size() > 2 && read.size() <= 8, read::toString);
            assertEquals(read, read.stream().distinct().toList());
        }

        @Test
        void isNotGuessedIfAByteFitsNone() throws IOException {
            Files.write(file("data.csv"), "id,Frage\n1,Die Gr\u0081öße für Müller\n".getBytes(ISO_8859_1));

            dify.check().exits(2).mentions("line 2").omits("Next:");
        }

        /// In ISO-2022, the second byte of a letter may be a quote or a backslash of JSON.
        @Test
        void isSuggestedForJsonWithEscapeCharacters() throws IOException {
            var text = "これは日本語のテキストです";
            var file = Files.write(file("data.json"), ("[{\"id\":1,\"Frage\":\"" + text + "\"}]").getBytes("ISO-2022-JP"));

            call(dify.settings(), "check", "-i", file.toString()).exits(2).shows("--encoding ISO-2022-JP");
            call(dify.settings(), "check", "-i", file.toString(), "--encoding", "ISO-2022-JP", "--show", "1").exits(0)
                    .shows("\"q\":\"" + text + "\"");
        }

        /// A log with colours, also if the escape character is behind the first 64 KB. A sequence of ISO-2022 is text
        /// beside other letters of UTF-8.
        @ParameterizedTest
        @ValueSource(strings = {"\u001b[31mred\u001b[0m", "\u000ea", "a\u000f", "\u001b(B", "\u001b[31mGröße", "\u001b$BGröße"})
        void isUtf8DespiteEscapeCharacters(String cell) throws IOException {
            for (int before : List.of(1, 20_000)) {
                csv(Stream.concat(Stream.of("id,Frage"), IntStream.rangeClosed(1, before + 1).mapToObj(row ->
                        row + "," + (row > before ? cell : "a"))).toArray(String[]::new));

                dify.check().exits(0).omits("--encoding");
            }
            dify.run("--ids", "20001").exits(0);
            assertEquals(cell, result("20001").path("inputs").path("Frage").asText());
        }

        /// Only the user knows whether this is Japanese, or a text about escape sequences.
        @ParameterizedTest
        @ValueSource(ints = {1, 20_000})
        void isAskedForIfAnAsciiFileHasASequenceOfIso2022(int before) throws IOException {
            var rows = IntStream.rangeClosed(1, before).mapToObj(row -> row + ",a\n").collect(Collectors.joining());
            Files.write(file("data.csv"), ("id,Frage\n" + rows + "x,注文\n").getBytes("ISO-2022-JP"));

            dify.run().exits(2).reports("data.csv:" + (before + 2) + ":", "ISO-2022-JP", "注文").hints("--encoding ISO-2022-JP");
            dify.check().exits(2).shows("--encoding UTF-8");
            assertEquals(0, dify.runs());
            dify.check("--encoding", "UTF-8").exits(0).omits("ISO-2022");
            dify.run("--encoding", "UTF-8", "--ids", "x").exits(0);
            assertEquals("\u001b$BCmJ8\u001b(B", result("x").path("inputs").path("Frage").asText());
        }

        @ParameterizedTest
        @ValueSource(strings = {"id,Frage\n1,a\n", "sep=;\nid;Frage\n1;a\n", "[{\"id\":1,\"Frage\":\"a\"}]",
                "{\"id\":1,\"Frage\":\"a\"}\n"})
        void mayBeMarkedTwice(String content) throws IOException {
            Files.writeString(file("data.csv"), "\uFEFF\uFEFF" + content);

            dify.check("--show", "1").exits(0).shows("\"q\":\"a\"");
        }

        @Test
        void hasNoNulInAColumnName() throws IOException {
            csv("i\0d,Frage", "1,a");

            assertTrue(dify.check().exits(2).err().chars().noneMatch(c -> c == 0));
            dify.check().omits("i d", "the columns are");
        }

        @Test
        void hasNoNulInACell() throws IOException {
            csv("id,Frage", "1,a\0b");

            dify.run().exits(2).says("line 2", "Frage", "NUL");

            assertEquals(0, dify.runs());
        }
    }

    @Nested
    class TheLayoutOfAFile {
        /// The time per column does not grow with their number. `--demo` has a variable for each column.
        @Tag("slow")
        @Test
        void mayHaveManyColumns() throws IOException {
            var places = IntStream.range(0, 30_000).boxed().toList();
            Function<String, String> columns = text -> places.stream().map(place -> text.replace("N", "" + place))
                    .collect(Collectors.joining(","));
            for (var names : List.of("", "same", "cN")) {
                csv("id," + columns.apply(names), "1," + columns.apply("x"));
                dify.check().exits(2);
            }

            call(Map.of(), "check", "--demo", "-i", input()).exits(0);
            call(Map.of(), typed("run", "--demo")).exits(0);
            call(Map.of(), "export", "-i", input(), "-o", output(), path("out.csv")).exits(0);
            assertTrue(Files.readString(file("out.csv")).lines().findFirst().orElseThrow().contains(",c29999,"));
        }

        @Test
        void aBatchOfWrappedRowsIsContinuedWithoutThePath() throws IOException {
            Files.writeString(file("data.csv"), "{\"data\":[{\"id\":1,\"Frage\":\"a\",\"Betrag\":1.50}]}");
            dify.run().exits(2).says("--rows /data");
            dify.run("--rows", "/data").exits(0);
            assertEquals("1.50", result("1").path("inputs").path("Betrag").asText());

            dify.run().exits(0);
            assertEquals(1, dify.runs());

            dify.check("--rows", "/other").exits(2).says("/other");
            csv("id,Frage", "1,a");
            dify.check("--rows", "/data").exits(2).says("--rows");
        }

        @ParameterizedTest
        @CsvSource(delimiter = '|', textBlock = """
                id,q,q,Frage   | q     | ''            | 2
                id,q,q,text    | q     | --map text=q  | 0
                id,Frage,Frage | Frage | ''            | 2
                id,Frage,x,x   | x     | ''            | 0
                id,Frage,x,x   | x     | --no-check    | 2
                id,Frage,x,x   | x     | --map x=datum | 2
                id,id,Frage    | id    | ''            | 2
                """)
        void columnsOfTheSameNameMatterOnlyIfTheyAreUsed(String header, String name, String option, int code)
                throws IOException {
            csv(header, "1,2,3,4".substring(0, header.split(",").length * 2 - 1));

            var call = dify.run(option.isEmpty() ? new String[0] : option.split(" ")).exits(code);

            call.mentions(name);
            assertEquals(code == 2 ? 0 : 1, dify.runs());
        }

        @Test
        void rowsBelowTheColumnNamesAreSkippedInTheWholeBatch() throws IOException {
            csv("id,Frage", "Nummer,Text", "1,a", "2,b");
            dify.run("--skip-rows", "1").exits(0);

            dify.run().exits(0).says("skipping 1 row");
            assertEquals(2, dify.runs());
            csv("id,Frage", "3,c", "1,a", "2,b");
            dify.run("--skip-rows", "0").exits(0).omits("skipping");
            assertEquals(3, dify.runs());
            assertEquals("", events("session").getLast().path("skipRows").asText(), "as if it had never been typed");
            csv("Frage", "Text", "a");
            call(dify.settings(), "run", "-i", input(), "-o", file("n.jsonl").toString(), "--id-column", "#", "--skip-rows", "1");
            call(dify.settings(), "run", "-i", input(), "-o", file("n.jsonl").toString(), "--skip-rows", "2").exits(2)
                    .says("--skip-rows");
        }
    }

    @Nested
    class ARowOfTotals {
        @ParameterizedTest
        @ValueSource(strings = {",,9", "2,y,3"})
        void isReportedWithItsLineBeforeAnythingIsSent(String last) throws IOException {
            csv("id,Frage,Datum", "1,x,2", "2,y,3", "3,z,4", last);

            for (var call : List.of(dify.check(), dify.run().hints())) {
                var text = call.exits(2).out() + call.err();
                assertTrue(Pattern.compile("line 5|:5: ").matcher(text).find(), text);
            }
            assertEquals(0, dify.runs());
        }

        @Test
        void isRejectedByCompareWithAHintThatCompareSupports() throws IOException {
            csv("id,Frage", "1,x");
            dify.run().exits(0);
            csv("id,Frage", ",x", "1,x", ",y");

            call(Map.of(), "compare", output(), "-i", input(), "--expect", "Frage=/answer").exits(2).hints()
                    .omits("--id-column");
        }
    }

    @Nested
    class TheFirstRunOfAFile {
        private Map<String, String> sent() throws IOException {
            var sent = new TreeMap<String, String>();
            for (var line : results()) sent.put(line.path("id").asText(), line.path("inputs").path("Frage").asText());
            return sent;
        }

        /// The hint is the whole command, with the options that were typed.
        @ParameterizedTest
        @CsvSource({"01_ansi.csv, 7 8 9, Gerät läßt sich nicht öffnen", "04_title.xlsx, 7 8, Was kostet es?",
                "15_pandas.csv, 1 2, Was?", "19_mongo.json, 1 2, b", "21_cover.xlsx, 7 8, Was kostet es?"})
        void sendsNothingUntilTheSuggestedCommandIsRun(String name, String ids, String last) throws IOException {
            var file = Files.write(file(name), files().stream().filter(one -> one.name().equals(name)).findFirst()
                    .orElseThrow().bytes()).toString();
            call(dify.settings(), "run", "-i", file, "-o", output(), "--limit", "9").exits(2).hints("--limit 9");

            assertEquals(0, dify.runs());
            assertFalse(Files.exists(file("results.jsonl")));

            var calls = calls("run", "-i", file, "-o", output(), "--limit", "9", "--progress", "off");

            assertEquals(2, calls.size(), calls::toString);
            calls.getLast().exits(0);
            assertEquals(ids, String.join(" ", sent().keySet()));
            assertTrue(sent().containsValue(last), sent()::toString);
            assertEquals(0, call(dify.settings(), "run", "-i", file, "-o", output()).code(),
                    "the choices are remembered");
            call(Map.of(), "export", "-i", file, "-o", output(), path("out.csv")).exits(0);
        }

        /// A session that sends nothing does not record the options.
        @ParameterizedTest
        @ValueSource(strings = {"--var kategorie=Technik", "--map Question="})
        void isRunAgainOnlyOnRequestIfAnOptionChangedItsRows(String option) throws IOException {
            csv("id,Frage,Question", "1,a,b", "2,c,d");
            dify.run("--map", "Question=datum").exits(0);
            assertEquals(2, dify.runs());

            dify.run(option.split(" ")).exits(2).reports("2 of 2 ").hints("--rerun-changed");
            var call = dify.run(words(List.of(option.split(" ")), "--keep-changed")).exits(0);
            assertEquals(2, dify.runs(), call::toString);
            dify.run(words(List.of(option.split(" ")), "--rerun-changed")).exits(0);

            assertEquals(4, dify.runs());
        }

        @Test
        void reportsProblemsOfTheFileEvenIfTheApiKeyIsRefused() throws IOException {
            dify.app.delete(KEY);
            Files.write(file("data.csv"), "编号,Frage\nA1,请问我的包裹在哪里\nA2,我想要一张发票，谢谢\n".getBytes("GB18030"));

            for (var call : List.of(dify.check(), dify.run()))
                call.exits(2).hints("--encoding GB18030").mentions("the first of 2 problems");
        }

        /// Excel saves these characters in its own variants of the encodings. Java's encodings of the usual names lack
        /// them, and some names that the detector uses differ from Java's in case or hyphens.
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                written in,   typed,        text,                                       suggested
                windows-31j,  ,             ①これは日本語で書かれたテキストです,        windows-31j
                windows-31j,  Shift_JIS,    ㈱髙橋商店の日本語で書かれたテキストです,   windows-31j
                windows-31j,  UTF-16LE,     ①これは日本語で書かれたテキストです,        windows-31j
                Big5,         ,             這是用繁體中文寫的文字請讀一下,             Big5
                windows-1255, ,             זה טקסט שנכתב בעברית כדי לבדוק את הקידוד,   windows-1255
                TIS-620,      ,             นี่คือข้อความที่เขียนเป็นภาษาไทยเพื่อทดสอบ, TIS-620
                """)
        void suggestsAnEncodingThatReadsTheFile(String charset, String typed, String text, String suggested)
                throws IOException {
            assumeTrue(Charset.isSupported(charset));
            Files.write(file("data.csv"), ("id,Frage\n1," + text + "\n2," + text + "\n").getBytes(charset));
            var option = typed == null ? new String[0] : new String[] {"--encoding", typed};

            for (var command : List.of("check", "run")) {
                var words = words(command.equals("run") ? List.of("run", "-i", input(), "-o", output())
                        : List.of("check", "-i", input()), option);
                var first = call(dify.settings(), words).exits(2).mentions(suggested + " (it reads ");
                call(dify.settings(), chosen(command, first, text)).exits(0);
            }
            assertEquals(text, sent().get("1"));
        }

        /// The detector knows only the name of the encoding that the file was read in, so there is nothing to suggest.
        @Test
        void suggestsNoEncodingThatWasTried() throws IOException {
            for (var encoding : List.of("Big5", "TIS-620", "windows-1255", "windows-31j")) {
                assumeTrue(Charset.isSupported(encoding));
                var bytes = new ByteArrayOutputStream();
                bytes.write("id,Frage\n1,".getBytes(UTF_8));
                bytes.write(Map.of("Big5", "這是用繁體中文寫的文字請讀一下", "TIS-620", "นี่คือข้อความที่เขียนเป็นภาษาไทย",
                        "windows-1255", "זה טקסט שנכתב בעברית כדי לבדוק", "windows-31j", "これは日本語で書かれたテキストです")
                        .get(encoding).repeat(20).getBytes(encoding));
                bytes.write(HexFormat.of().parseHex("FF0A")); // invalid in all of them
                Files.write(file("data.csv"), bytes.toByteArray());
                dify.requests.clear();

                for (var call : List.of(dify.check("--encoding", encoding), dify.run("--encoding", encoding)))
                    call.exits(2).mentions("invalid ").omits("--encoding " + encoding + " ");
                assertEquals(2, dify.bodies("/v1/parameters").size());
            }
        }

        @Test
        void requestsTheFormOnceHoweverManyOptionsTheFileNeeds() throws IOException {
            Files.write(file("data.csv"), ("Titel\n\n编号,Frage\nA1,请问我的包裹在哪里\nA2,我想要一张发票，谢谢\n").getBytes("GB18030"));

            dify.check().exits(2).mentions("--encoding GB18030", "--header-row 3", "--id-column 编号");

            assertEquals(1, dify.bodies("/v1/parameters").size());
        }

        @Tag("slow")
        @Test
        void detectsAnotherEncodingFarDownInTheFile() throws IOException {
            var rows = IntStream.range(0, 40_000).mapToObj(i -> i + ",a\n").collect(Collectors.joining());
            Files.write(file("data.csv"), ("id,Frage\n" + rows + "x,größer als die Straße für Fußgänger\n")
                    .getBytes(ANSI));

            var calls = calls("check", "-i", input());

            assertEquals(2, calls.size(), calls::toString);
            calls.getLast().exits(0);
        }
    }

    @Nested
    class TheHeaderRowOption {
        @ParameterizedTest
        @CsvSource({"3, 0", "1, 2", "2, 2", "5, 2", "99, 2", "0, 2", "-1, 2", "x, 2"})
        void isAcceptedOnlyIfTheGivenLineIsAHeader(String row, int code) throws IOException {
            csv("Title", "", "id,Frage", "a,\"x", "y\"");

            dify.check("--header-row", row).exits(code);
        }

        @Test
        void isRememberedAndMustSelectALineWithTheIdColumn() throws IOException {
            csv("Title", "id,Frage", "a,x");
            dify.run("--header-row", "2").exits(0);
            csv("Title", "id,Frage", "a,x", "b,y");

            dify.run("--header-row", "1").exits(2).reports("--header-row 1");

            dify.run().exits(0);

            assertEquals(List.of("a", "b"), ids());
            assertEquals(2, events("session").getLast().path("choices").path("header_row").asInt());
        }

        @ParameterizedTest
        @ValueSource(strings = {"id", "Nr"})
        void canChangeAfterTheTitleOfTheFileIsRemoved(String id) throws IOException {
            csv("Title", "", id + ",Frage", "a,x");
            dify.run("--header-row", "3", "--id-column", id).exits(0);
            csv(id + ",Frage", "a,x", "b,y", "c,z");

            dify.run().exits(2).says("--header-row 3");

            dify.run("--header-row", "1", "--limit", "1").exits(0);
            dify.run().exits(0);

            assertEquals(List.of("a", "b", "c"), ids());
        }

        @Test
        void cannotChangeIfTheRowsAreNumbered() throws IOException {
            csv("Title", "Frage,n", "a,1");
            dify.run("--header-row", "2", "--id-column", "#").exits(0).says("numbered");

            dify.run("--header-row", "1").exits(2).reports("--header-row 2");
        }

        @Test
        void isRejectedForJsonLines() throws IOException {
            Files.writeString(file("data.csv"), "{\"id\":1,\"Frage\":\"a\"}\n");

            dify.check("--header-row", "1").exits(2)
                    .reports("--header-row 1").omits("--id-column");

            dify.check().exits(0);
        }

        @Test
        void theHeaderMayContainColumnsWithoutNames() throws IOException {
            csv(",Frage,Datum,", "x,a,,Technik", "y,b,"); // Excel leaves out the last cell of a column without a name

            dify.run("--id-column", "column 1", "--map", "column 4=kategorie").exits(0);

            assertEquals("{\"column 1\":\"x\",\"Frage\":\"a\",\"Datum\":\"\",\"kategorie\":\"Technik\"}", result("x")
                    .path("inputs").toString());
            assertEquals(List.of("x", "y"), ids());
        }
    }

    @Nested
    class NumbersAndEmptyCells {
        @ParameterizedTest
        @CsvSource(delimiter = '|', nullValues = "wrong", textBlock = """
                12,50          | 12.50
                1.234,56       | 1234.56
                1.234          | 1234
                -0,5           | -0.5
                12             | 12
                12.50          | wrong
                1.23,4         | wrong
                12.3456        | wrong
                1,2,3          | wrong
                0.123          | wrong
                01.234,5       | wrong
                1.234,50-      | -1234.50
                '1 234,50 €'   | 1234.50
                '€ -3'         | -3
                '12 34'        | wrong
                'CHF 1.234'    | 1234
                '€ 3 €'        | wrong
                '12,5 %'       | wrong
                --1            | wrong
                """)
        void numbersMayHaveADecimalCommaOnRequest(String cell, String number) throws IOException {
            csv("id;Frage;Betrag", "1;a;" + cell, "2;a;");

            dify.run("--decimal", ",").exits(number == null ? 2 : 0);

            if (number == null) return;
            var sent = dify.bodies("/run").stream().filter(body -> body.contains("\"betrag\":" + number + "}"));
            assertEquals(1, sent.count());
            dify.run().exits(0);
            dify.run("--decimal", ".").exits(2);
        }

        @Test
        void workbookNumbersKeepTheirDecimalPoint() throws IOException {
            Files.write(file("data.csv"), FormatsTest.book("s:id|s:Frage|s:Betrag", "n:1|s:a|n:1.234",
                    "n:2|s:a|s:1.234,5"));

            dify.check("--decimal", ",", "--show", "2").exits(0)
                    .shows("\"betrag\":1.234", "\"betrag\":1234.5");
        }

        @Test
        void numbersOfMongoDbAreRead() throws IOException {
            Files.writeString(file("data.jsonl"), "{\"id\":1,\"Frage\":\"a\",\"Betrag\":{\"$numberDecimal\":\"12.50\"}}\n");

            call(dify.settings(), "check", "-i", file("data.jsonl").toString(), "--show", "1").exits(0)
                    .shows("\"betrag\":12.50", "mongoexport");
        }

        @Test
        void wordsForAMissingValueAreReadAsEmptyOnRequest() throws IOException {
            Files.writeString(file("data.jsonl"), "{\"id\":1,\"Frage\":\"NULL or nan\",\"Betrag\":\"NULL\",\"other\":\"nan\"}\n"
                    + "{\"id\":2,\"Frage\":\"b\",\"Betrag\":-9,\"Datum\":\"\\\\N\"}\n");
            var input = file("data.jsonl").toString();

            var check = call(dify.settings(), "check", "-i", input).exits(2).mentions("Betrag = \"NULL\"",
                    "\"Datum\" has \\N in 1 cell", "check -i " + input + " --null NULL --null '\\N'");
            assertTrue(check.notes().stream().noneMatch(note -> note.contains(" nan") || note.contains("\"Frage\" has")));

            var nulls = new String[] {"--null", "NULL", "--null=\\N", "--null", "-9"};
            var shown = call(dify.settings(), words(List.of("check", "-i", input, "--show", "2"), nulls)).exits(0);
            assertEquals(List.of("NULL or nan", "b"), Pattern.compile("(?m)^\\{.*\"q\":\"([^\"]*)\"").matcher(shown.out()).results()
                    .map(match -> match.group(1)).toList());
            shown.omits("\"betrag\"", "\\\\N");
            call(dify.settings(), words(List.of("run", "-i", input, "-o", output(), "--ids", "1"), nulls)).exits(0);
            call(dify.settings(), "run", "-i", input, "-o", output(), "--ids", "1").exits(0);
            assertEquals(1, dify.runs(), "the choice is remembered");
            assertEquals(3, events("session").getFirst().at("/choices/nulls").size());
        }

        /// The command has all options, so that nobody must join two.
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                cells                 | options
                .,NA;.,b;1,c          | --null . --null NA
                -,x;-,y;2,z           | --null=-
                n/a,k. A.;N/A,x;2,x   | --null n/a --null N/A --null 'k. A.'
                '#N/A,x;2,-'          | --null '#N/A'
                'x,NA;2,x'            | --null NA
                '1,NULL;NULL,-'       | --null NULL
                """)
        void wordsForAMissingValueArePartOfTheOneSuggestedCommand(String cells, String options) throws IOException {
            var rows = cells.split(";");
            csv(Stream.concat(Stream.of("Nr,Frage,Betrag,Datum"), IntStream.range(0, rows.length)
                    .mapToObj(i -> i + ",a," + rows[i])).toArray(String[]::new));
            var all = "--id-column Nr " + options;

            var check = dify.check().exits(2).shows(all + "\n");

            assertEquals(1, check.out().split("check -i", -1).length - 1, check.out());
            assertEquals(cells.contains("x,NA"), check.out().contains("fix the problems"));
            dify.run().exits(2).says(all + "\n");
        }

        /// A required variable would then have no value.
        @Test
        void wordsForAMissingValueAreNotSuggestedIfARequiredVariableHasThem() throws IOException {
            csv("id,Frage,Betrag,Datum", "1,a,NULL,NULL", "2,NULL,1,NA");

            dify.check().exits(2).shows("\"Frage\" has NULL in 1 cell").shows("--null NA\n").omits("--null NULL");
        }

        @Test
        void decimalMarksOtherThanPointAndCommaAreRejected() throws IOException {
            csv("id,Frage", "1,a");
            for (var mark : List.of(";", "x", ",,")) dify.check("--decimal", mark).exits(2).says("--decimal");
        }

        /// `--decimal ,`, which the tool suggests for the other cell, would multiply them by a thousand.
        @Test
        void numbersThatADecimalCommaWouldChangeAreReported() throws IOException {
            csv("id;Frage;Betrag", "1;a;1.234", "2;a;1,5", "3;a;0.500", "4;a;2.5");
            for (var call : List.of(dify.check(), dify.run()))
                call.exits(2).mentions("1.234 in the column \"Betrag\" into 1234 (1 such");

            csv("id;Frage;Betrag", "1;a;1.234", "2;a;1,5");
            dify.check("--decimal", ",").exits(0)
                    .shows("1.234 in the column \"Betrag\" into 1234 (1 such");

            csv("id,Frage,Betrag", "1,a,1.234", "2,a,2.5");
            dify.check().exits(0).omits(" 1234");
        }

        /// Excel writes semicolons where the comma is the decimal mark.
        @Test
        void aNumberThatMayHaveADecimalCommaIsAProblemUntilTheUserDecides() throws IOException {
            csv("id;Frage;Betrag", "1;a;1.234", "2;a;2.5");

            dify.run().exits(2).says("line 2", "1.234 (--decimal .)", "1234 (--decimal ,)");

            dify.run("--decimal", ".").exits(0);
            assertEquals(1, dify.bodies("/run").stream().filter(body -> body.contains("\"betrag\":1.234}")).count());
        }

        /// The typed mark reads other cells, so the other mark is not suggested.
        @ParameterizedTest
        @CsvSource(delimiter = '|', textBlock = """
                . | '1.234,5' | '--decimal , reads it as 1234.5'
                , | '1,234.5' | --decimal . reads it as 1234.5
                . | abc       | 1234567.89
                , | .5        | 1234567.89
                """)
        void aNumberThatTheTypedMarkCannotReadIsReportedWithTheOther(String mark, String cell, String fact)
                throws IOException {
            csv("id;Frage;Betrag", "1;a;" + cell);

            dify.check("--decimal", mark).exits(2).shows("line 2", fact).omits("Next:");
        }

        @Test
        void aNumberThatBothMarksReadAlikeIsShownOnce() throws IOException {
            csv("id,Frage,Betrag", "1,a,1\u00A0234");

            assertEquals(2, dify.check().exits(2).shows("Next: ", "--decimal .").out().split("1234", -1).length);
        }

        /// The cell `1,234` has two meanings. The other one decides.
        @ParameterizedTest
        @CsvSource(delimiter = '|', textBlock = """
                $1,234.50  | 1234 | 1234.50
                1.234,50-  | 1.234 | -1234.50
                12,5       | 1.234 | 12.5
                """)
        void numbersAsPeopleWriteThemAreReadWithTheSuggestedOption(String cell, String first, String second)
                throws IOException {
            csv("id,Frage,Betrag", "1,a,\"1,234\"", "2,b,\"" + cell.replace("(empty)", "") + "\"");

            var calls = calls("check", "-i", file("data.csv").toString(), "--show", "2");

            assertEquals(2, calls.size(), calls::toString);
            calls.getLast().exits(0).shows("\"betrag\":" + first + "}");
            if (second != null) calls.getLast().shows("\"betrag\":" + second + "}");
        }

        @Test
        void numbersThatNeedBothDecimalMarksAreListedWithoutAnOption() throws IOException {
            csv("id,Frage,Betrag", "1,a,\"1,234\"", "2,a,\"1,5\"", "3,a,$1.5");

            var call = dify.check().exits(2).omits("Next:");

            assertEquals(3, call.out().lines().filter(line -> line.startsWith("line ")).count(), call.out());
        }

        /// A wrong cell, or a row without a question, is data, unless the row is mostly blank or has several faults.
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                rows                                                     | skipped
                1,Frage?,x,y,z;2,a,Technik,1,z;3,b,,,;4,c,,,             | 1
                1,Frage?,x,,;2,Nr,y,z,;3,a,Technik,1,;4,b,Technik,2,     | 0
                1,Frage?,x,y,;2,Nr,x,z,;3,a,Technik,1,;4,b,Technik,2,    | 2
                1,a,x,1,;2,b,Technik,1,;3,c,,,;4,d,,,                    | 0
                1,,Technik,1,z;2,b,Technik,1,;3,c,,,                     | 0
                1,a,x,y,;2,b,Technik,1,;3,c,x,,;4,d,,,                   | 0
                1,a,x,y,;2,b,Technik,1,                                  | 0
                """)
        void firstRowsWithFaultsAreSkippedIfTheyLookLikeNames(String rows, int skipped) throws IOException {
            csv(("id,Frage,Kategorie,Betrag,Datum;" + rows).split(";"));

            var check = dify.check().exits(2);

            if (skipped == 0) check.omits("--skip-rows");
            else check.shows("Next: ", "--skip-rows " + skipped + "\n").omits("fix the problems");
            if (skipped > 0) dify.check("--skip-rows", "" + skipped).exits(0);
            if (skipped > 0) dify.check("--skip-rows", "0").shows("--skip-rows " + skipped + "\n");
        }

        @Test
        void theOtherWorksheetsAreListed() throws IOException {
            var months = new LinkedHashMap<String, List<String>>();
            for (var month : List.of("Oktober", "November", "Dezember 26"))
                months.put(month, List.of("s:id|s:Frage", "n:1|s:a"));
            var file = Files.write(file("data.xlsx"), FormatsTest.book(false, months)).toString();

            call(dify.settings(), "check", "-i", file).exits(0).mentions("\"Oktober\"", "--sheet", "\"November\", \"Dezember 26\"");
            call(dify.settings(), "check", "-i", file, "--sheet", "November").exits(0).omits("Oktober");
        }

        /// A person sees the value in each row, but only the first one has it.
        @Test
        void mergedCellsAreAProblemInColumnsThatAreSent() throws IOException {
            var file = Files.write(file("data.xlsx"), FormatsTest.book(false, Map.of("S", List.of("s:id|s:Kategorie|s:Frage",
                    "n:1|s:Technik|s:a", "n:2||s:b")))).toString();

            call(dify.settings(), "check", "-i", file).exits(2).mentions("B2:B3", "--allow-empty").omits("Next:");
            call(dify.settings(), "run", "-i", file, "-o", output()).exits(2).says("B2:B3");
            assertEquals(0, dify.runs());
            call(dify.settings(), "check", "-i", file, "--allow-empty").exits(0);
        }

        /// The command that is printed makes columns of the fields.
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', quoteCharacter = '`', textBlock = """
                name       | before         | column    | after
                data.json  | {"records":[   | fields    | ]}
                data.json  | {"a b":{"c":[  | custom it | ]}}
                data.json  | [              | fields    | ]
                data.jsonl | ``             | fields    | ``
                """)
        void aColumnOfObjectsCanBeFlattened(String name, String before, String column, String after) throws Exception {
            Files.writeString(file(name), before + "{\"id\":1,\"" + column + "\":{\"Frage\":\"Wo?\",\"id\":9}}"
                    + (after.isEmpty() ? "\n" : ",") + "{\"id\":2,\"" + column + "\":{\"Frage\":\"Was?\"}}" + after);

            var check = call(dify.settings(), "check", "-i", file(name).toString()).exits(2);
            var command = Pattern.compile("(?m) (jq .*)$").matcher(check.out());
            assertTrue(command.find(), check::toString);
            assumeTrue(Files.isExecutable(Path.of("/usr/bin/jq")), "no jq");
            assertEquals(0, new ProcessBuilder("sh", "-c", command.group(1)).directory(folder.toFile()).start().waitFor());

            call(dify.settings(), "check", "-i", file("flat" + name.substring(4)).toString(), "--show", "2").exits(0)
                    .shows("\"q\":\"Wo?\"", "\"q\":\"Was?\"");
        }

        @Test
        void columnsToChooseFromAreListedOnceWithExamples() throws IOException {
            var names = IntStream.rangeClosed(1, 14).mapToObj(i -> "spalte" + i).toList();
            csv("id," + String.join(",", names), "17," + String.join(",", names).replace("spalte", "wert"));

            var check = dify.check().exits(2).shows("spalte10: wert10\n", "4 ");

            for (var name : List.of("spalte1:", "spalte10")) assertEquals(1, check.out().split(name, -1).length - 1, check.out());
            check.omits("id: 17", "spalte11");
        }

        @Test
        void decimalCommasOfAColumnAreListedAsOneProblem() throws IOException {
            csv("id;Frage;Betrag", "1;a;1,5", "2;a;abc", "3;a;2,5");

            var call = dify.check().exits(2).shows("--decimal ,", "2 such cells", "line 3, id 2");

            assertEquals(2, call.out().lines().filter(line -> line.startsWith("line ")).count(), call.out());
        }

        /// Without another cell that decides, the mark would be a guess.
        @Test
        void aNumberThatBothDecimalMarksReadIsLeftToTheUser() throws IOException {
            csv("id,Frage,Betrag", "1,a,\"1,234\"");

            dify.check().exits(2).mentions("1234 (--decimal .)", "1.234 (--decimal ,)", "--decimal MARK").omits("Next:");
        }

        /// Dify uses the empty default if nothing is sent, and refuses it.
        @ParameterizedTest
        @CsvSource({"'', 2", "'\"\"', 0", "null, 0", "\"a\", 0"})
        void anEmptyCellOfASelectWithAnEmptyDefaultIsReported(String text, int code) throws IOException {
            dify.form("[{'paragraph':{'variable':'Frage'}},{'select':{'variable':'ton','options':['a','b']"
                    + (text.isEmpty() ? ",'default':''" : text.equals("\"\"") ? "" : ",'default':" + text) + "}}]");
            csv("id,Frage,ton", "1,a,b", "2,a,");

            dify.check().exits(code);

            csv("id,Frage", "1,a");
            dify.check().exits(code);
        }

        @ParameterizedTest
        @CsvSource(delimiter = '|', textBlock = """
                s:01.11.2026 | n3:46328.5             | 1
                s:01.11.2026 | s:11/2/2026 10:00 AM   | 1
                s:01-11-2026 | d2:2026-11-02          | 1
                s:2026-11-01 | n3:46328.5             | 0
                s:01.11.2026 | s:1.12.2026            | 0
                s:01.11.2026 | s:2.3.1.4 and more     | 0
                """)
        void datesOfSeveralFormsAreReported(String first, String second, int notes) throws IOException {
            Files.write(file("data.csv"), FormatsTest.book("s:id|s:Frage|s:Datum", "n:1|s:a|" + first,
                    "n:2|s:a|" + second));

            var call = dify.check().exits(0);

            assertEquals(notes, call.out().lines().filter(line -> line.contains("Sheet1!C2") && line.contains("!C3"))
                    .count(), call.out());
        }

        @Test
        void emptyCellsAreSentForRequiredInputsOnlyWithAllowEmpty() throws IOException {
            csv("id,Frage", "1,a", "Summe,");

            dify.run().exits(2).says("line 3, id Summe", "--allow-empty");

            assertEquals(0, dify.runs());

            dify.run("--allow-empty").exits(0);
            assertEquals("", result("Summe").path("inputs").path("Frage").asText());
        }
    }

    @Nested
    class TheCheckTable {
        @ParameterizedTest
        @CsvSource({"80", "120", "200"})
        void showsMatchedColumnsAndListsOthersInAnyTerminalWidth(int width) throws IOException {
            var names = Stream.concat(Stream.of("id", "Frage", "a rather long name of a column"), IntStream.range(0, 47)
                    .mapToObj(i -> "spalte_" + i)).toList();
            var path = Files.writeString(file("data.csv"), String.join(",", names) + "\n1," + "text ".repeat(90)
                    + ",x".repeat(48) + "\n");
            var out = new StringWriter();
            try (var csv = Csv.open(path, Csv.Shape.DEFAULT)) {
                var form = FormTest.form("""
                        [{"text-input":{"variable":"Frage","required":true}},
                         {"json_object":{"variable":"a rather long name of a column"}}]""", csv.columns());
                var inspector = new Inspection.Inspector(csv, form);
                csv.survey(inspector, _ -> Optional.empty(), inspector::add);

                CheckView.print(inspector.inspection(false), new ServerInfo("app", AppKind.WORKFLOW, "1.16.1"),
                        Optional.of(width), new PrintWriter(out, true));
            }

            assertTrue(out.toString().lines().allMatch(line -> line.length() <= width), out::toString);
            assertEquals(3, out.toString().lines().filter(line -> line.startsWith("  ")).count(), out::toString);
            assertTrue(out.toString().contains("\"spalte_3\""), out::toString);
        }
    }

    @Nested
    class TheExportedWorkbook {
        private String export(String name, byte[] bytes) throws Exception {
            Files.write(file(name), bytes);
            call(dify.settings(), "run", "-i", path(name), "-o", output(), "--mode", "streaming").exits(0);
            call(Map.of(), "export", "-i", path(name), "-o", output(), path("out.xlsx")).exits(0);
            return python("""
                    import openpyxl, sys
                    s = openpyxl.load_workbook(sys.argv[1]).active
                    head = [c.value for c in s[1]]
                    for row in s.iter_rows(min_row=2):
                        print([f'{h}:{type(c.value).__name__}:{c.value}' for h, c in zip(head, row) if c.value is not None
                               and h not in ('run_id', 'seconds', 'status', 'currency')])
                    print(s.auto_filter.ref, s.freeze_panes, all(8 <= d.width <= 61 for d in s.column_dimensions.values()))
                    """, file("out.xlsx"));
        }

        @Test
        void keepsTheCellTypesOfTheInputWorkbook() throws Exception {
            var printed = export("data.xlsx", FormatsTest.book("s:id|s:Frage|s:Betrag|s:Datum|s:zeit|s:plz|s:uhr",
                    "n:7|s:12|n:-1.19|n2:46327|n3:46327.5|n5:701|n4:0.75"));

            assertEquals("['id:str:7', 'Frage:str:12', 'Betrag:float:-1.19', 'Datum:datetime:2026-11-01 00:00:00', "
                    + "'zeit:datetime:2026-11-01 12:00:00', 'plz:str:00701', 'uhr:time:18:00:00', 'retries:int:0', "
                    + "'tokens:int:23', 'price:float:3.45e-05']", printed.lines().findFirst().orElse("")
                    .replaceAll("'output[^']*', ", ""));
            assertTrue(printed.lines().skip(1).findFirst().orElse("").matches("A1:[A-Z]+2 A2 True"), printed);
        }

        @Test
        void storesJsonNumbersAsNumbersAndCsvCellsAsText() throws Exception {
            var line = Given.json("{'id':1,'Frage':'5','Betrag':1.5,'n':12345678901234567}\n");
            var json = export("data.jsonl", line.getBytes(UTF_8));
            assertTrue(json.startsWith("['id:str:1', 'Frage:str:5', 'Betrag:float:1.5', 'n:str:12345678901234567'"),
                    json);

            for (var name : List.of("results.jsonl", "results.jsonl.log", "out.xlsx")) Files.delete(file(name));
            var csv = export("data.csv", "id,Frage,Betrag\n1,5,1.5\n".getBytes(UTF_8));
            assertTrue(csv.startsWith("['id:str:1', 'Frage:str:5', 'Betrag:str:1.5'"), csv);
        }
    }
}

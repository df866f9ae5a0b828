package difyexec;

import org.junit.jupiter.api.*;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.Given.*;
import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.*;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

/// The CSV: records, cells, ids.
final class InputTest {
    /// A file in a folder of its own.
    abstract static class FileOfRows {
        @TempDir Path folder;

        Path write(byte[] bytes) throws IOException {
            return Files.write(folder.resolve("data.csv"), bytes);
        }

        Csv open(byte[] bytes) throws IOException {
            return Csv.open(write(bytes), Csv.Shape.DEFAULT);
        }

        Csv open(String text) throws IOException {
            return open(text.getBytes(UTF_8));
        }

        /// The message for an unusable file, without the folder.
        String problem(byte[] bytes) {
            var problem = assertThrows(Unusable.class, () -> Given.rows(open(bytes)));
            assertEquals(Exit.UNUSABLE, problem.exit);
            return problem.text().replace(folder + File.separator, "");
        }

        String problem(String text) {
            return problem(text.getBytes(UTF_8));
        }
    }

    @Nested
    class TheInputCsv extends FileOfRows {
        private List<Row> rows(String text) throws IOException {
            return Given.rows(open(text));
        }

        private static List<List<String>> cells(List<Row> rows) {
            return rows.stream().map(row -> List.copyOf(row.inputs().values())).toList();
        }

        private static List<String> texts(List<Row> rows) {
            return rows.stream().map(row -> row.inputs().get("text")).toList();
        }

        @Test
        void hasEveryColumnIncludingTheIdAsAnInput() throws IOException {
            var rows = rows("id,text\na,hello\nb,world\n");

            assertEquals(Map.of("id", "a", "text", "hello"), rows.get(0).inputs());
            assertEquals(List.of("a", "b"), rows.stream().map(Row::id).toList());
            assertEquals(List.of(0, 1), rows.stream().map(Row::index).toList());
            assertEquals(List.of(2L, 3L), rows.stream().map(Row::line).toList());
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                encoding,     text
                Shift_JIS,    日本語のテキスト
                GB18030,      简体中文
                windows-1252, größer
                UTF-8,        größer
                """)
        void isReadInTheGivenEncoding(Charset encoding, String text) throws IOException {
            var path = Files.writeString(folder.resolve("data.csv"), "id,text\na," + text + "\n", encoding);

            var csv = Csv.open(path, shape(null, encoding, null));

            assertEquals(List.of(List.of("a", text)), cells(Given.rows(csv)));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                encoding     | text
                windows-31j  | これは日本語で書かれたテキストです
                EUC-KR       | 한국어로 쓴 글입니다. 이것은 예입니다
                GB18030      | 这是用简体中文写的文字，请读一下
                windows-1251 | Это текст на русском языке
                """)
        void isRejectedWithTheLikelyEncodingIfItIsNotUtf8(String encoding, String text) {
            assumeTrue(Charset.isSupported(encoding));
            var message = problem(("id,text\na," + text + "\n").getBytes(Charset.forName(encoding)));

            assertTrue(message.startsWith("data.csv:2: ") && message.contains("\nhint: add --encoding " + encoding),
                    message);
        }

        @Test
        void hasSpacesStrippedOnlyFromIdsAndHeaders() throws IOException {
            var row = rows("id , the text\n a\u3000,  x \n").getFirst();

            assertEquals("a", row.id());
            assertEquals(Map.of("id", "a", "the text", "  x "), row.inputs());
        }

        /// Cases that every CSV reader should handle, each in its own file.
        @ParameterizedTest(name = "{0}")
        @CsvSource(delimiter = '|', quoteCharacter = '`', useHeadersInDisplayName = true, textBlock = """
                case                    | file                                            | cells
                simple                  | id,b,c/1,2,3/                                  | 1~2~3
                simple, Windows         | id,b,c^1,2,3^                                   | 1~2~3
                commas in quotes        | id,city,zip/Ann,"Oslo, Norway",0150/            | Ann~Oslo, Norway~0150
                empty cells             | id,b,c/1,"",""/2,3,4/                           | 1~~;2~3~4
                empty cells, Windows    | id,b,c^1,"",""^2,3,4^                           | 1~~;2~3~4
                escaped quotes          | id,b/1,"ha ""ha"" ha"/2,3/                      | 1~ha "ha" ha;2~3
                JSON                    | id,val/1,"{""a"": ""b"", ""c"": [1.5, 2.5]}"/  | 1~{"a": "b", "c": [1.5, 2.5]}
                newlines                | id,b,c/1,2,3/"Once upon @a time",5,6/7,8,9/     | error
                newlines in cells       | id,b,c/1,2,3/x,"Once@upon",6/7,8,9/             | 1~2~3;x~Once@upon~6;7~8~9
                both, Windows           | id,b,c^1,2,3^x,"Once^upon",6^                   | 1~2~3;x~Once^upon~6
                quotes and newlines     | id,b/1,"ha@""ha""@ha"/2,3/                      | 1~ha@"ha"@ha;2~3
                coordinates             | id,lat/x,"48°51'24"" N"/                        | x~48°51'24" N
                other scripts           | id,b/1,ʤ/2,日本語/                                 | 1~ʤ;2~日本語
                a quote alone           | id,b/1,"/                                       | error
                quotes in bare cells    | id,b/1,5" x/2,x""y/                             | 1~5" x;2~x""y
                old Mac, quoted CR      | id,b%1,x%2,"a%b"%                               | 1~x;2~a%b
                no end at the end       | id,b/1,x                                        | 1~x
                backslashes             | id,b/1,C:\\t\\/2,"C:\\"/                        | 1~C:\\t\\;2~C:\\
                """)
        void quotedEmptyAndMultilineCellsAreReadAsWritten(String name, String file, String cells) throws IOException {
            var text = file.replace('/', '\n').replace('@', '\n').replace("^", "\r\n").replace('%', '\r');
            if (cells.equals("error")) {
                assertThrows(Unusable.class, () -> rows(text));
                return;
            }

            var read = cells(rows(text)).stream().map(row -> String.join("~", row)).collect(Collectors.joining(";"));

            assertEquals(cells.replace('@', '\n').replace("^", "\r\n").replace('%', '\r'), read);
        }

        @Test
        void rowsAcrossReadBufferBoundariesAreReadCorrectly() throws IOException {
            for (int size = (1 << 14) - 60; size < 1 << 14; size++) {
                var rows = rows("id,text\r\na," + "x".repeat(size) + "\r\nb,\"q\"\"\r\n\rq\"\r\nc,z\r\n");

                assertEquals(List.of("q\"\r\n\rq", "z"), texts(rows).subList(1, 3));
                assertEquals(List.of(2L, 3L, 6L), rows.stream().map(Row::line).toList());
            }
        }

        @Test
        void aCellOfTenMegabytesWithANulIsReadUnchanged() throws IOException {
            var cell = "x\0" + "é,\n".repeat(2 << 20);

            assertEquals(List.of(cell), texts(rows("id,text\na,\"" + cell + "\"\n")));
        }

        @Test
        void selectedRowsCanBeReadSeveralTimes() throws IOException {
            var csv = open("id\na\nb\nc\nd\n");
            var index = Index.of(csv, _ -> {});

            for (int time = 0; time < 2; time++) {
                var seen = new ArrayList<String>();
                csv.rows(BitSet.valueOf(new long[] {0b1010}), index::fingerprint)
                        .forEachRemaining(row -> seen.add(row.id() + row.index()));
                assertEquals(List.of("b1", "d3"), seen);
            }
            assertThrows(NoSuchElementException.class, () -> csv.rows(new BitSet(), index::fingerprint).next());
        }

        @Test
        void isClosedAfterTheLastSelectedRow() throws IOException {
            var open = Path.of("/proc/self/fd");
            assumeTrue(Files.isDirectory(open));
            var csv = open("id,text\na,1\nb,2\n");

            assertEquals("a", csv.rows(BitSet.valueOf(new long[] {1}), Index.of(csv, _ -> {})::fingerprint).next()
                    .id());

            try (var files = Files.list(open)) {
                assertTrue(files.noneMatch(file -> isThe(csv.file().input(), file)));
            }
        }

        /// The engine stops before the last row after Ctrl-C, and a changed file ends the reading.
        @ParameterizedTest
        @ValueSource(booleans = {true, false})
        void isClosedWithTheInputIfTheLastSelectedRowIsNotReached(boolean isChanged) throws IOException {
            var open = Path.of("/proc/self/fd");
            assumeTrue(Files.isDirectory(open));
            var csv = open("id,text\na,1\nb,2\nc,3\n");
            var rows = csv.rows(BitSet.valueOf(new long[] {7}), Index.of(csv, _ -> {})::fingerprint);
            assertEquals("a", rows.next().id());
            if (isChanged) Files.writeString(csv.file().input(), "id,text\na,1\nb,9\nc,3\n");
            var later = csv.rows(BitSet.valueOf(new long[] {7}), _ -> 0);
            assertThrows(Unusable.class, later::next);

            csv.close();

            try (var files = Files.list(open)) {
                assertTrue(files.noneMatch(file -> isThe(csv.file().input(), file)));
            }
        }

        private static boolean isThe(Path file, Path link) {
            try {
                return Files.isSameFile(file, link);
            } catch (IOException _) {
                return false; // already closed
            }
        }

        @ParameterizedTest
        @CsvSource(delimiter = '|', useHeadersInDisplayName = true, textBlock = """
                file                           | line | facts
                id,text/a,1/b/c,3              | 3    | 1 cell;2
                id,text/a,1,2                  | 2    | 3 cells;2
                id,text/a,1/b,2/a,3            | 4    | duplicate;"a";line 2
                id,text/a,1/ a ,3              | 3    | duplicate;"a";line 2
                id,text/ ,1                    | 2    | empty
                id,text/"a/b",1                | 2    | "a b";line break
                id,text/a\tb,1                 | 2    | "a b";control character
                id,text,id/a,1,2               | 1    | duplicate;"id"
                sep=;/id;text;id/a;1;2         | 2    | duplicate;"id"
                key,text/a1,b                  | 1    | "id";--id-column key;'#'
                name,price/Ann,1.5/Bob,2.5     | 1    | "id";use --id-column '#'
                text,day/Why 2?,2026-11-01     | 1    | "id";use --id-column '#'
                ID,Id/a1,b                     | 1    | "id";--id-column ID
                id,text,,/a,1,,/b              | 3    | 1 cell;4
                id,text,,/a,1,,,               | 2    | 5 cells;4
                id,text/a,1/id,text/b,2        | 3    | repeats the column names
                id, text/a,1/ id,text /b,2     | 3    | repeats the column names
                id,text,/a,1,/id,text          | 3    | repeats the column names
                id,text/a,"1/b,2               | 2    | unclosed quote
                id,text/a,1/b,"x/y"/c,"1/d,2   | 5    | unclosed quote
                id,text/a,"1" 2/b,3            | 2    | closing quote
                id,text/a,1/b,"x/y" z/c,3      | 4    | closing quote
                id,text                        |      | no rows
                id,text/,/,                    |      | no rows
                id,text/                       |      | no rows
                """)
        void anInvalidRowOrHeaderIsReportedWithItsLine(String file, Integer line, String facts) {
            var message = problem(file.replace('/', '\n').replace("\\t", "\t"));

            assertTrue(message.startsWith("data.csv:" + (line == null ? "" : line + ":") + " "), message);
            for (var fact : WholeCommand.quotedHere(facts).split(";"))
                assertTrue(message.contains(fact), fact + " in " + message);
        }

        /// A quote that is never closed, and a cell without any.
        @Tag("slow")
        @ParameterizedTest
        @ValueSource(strings = {"\"", ""})
        void aCellOver64MebibytesIsRejectedWhileItIsRead(String quote) throws IOException {
            var path = folder.resolve("data.csv");
            try (var out = Files.newBufferedWriter(path)) {
                out.write("id,text\na,1\nb," + quote);
                for (int line = 0; line < 70; line++) out.write(("x".repeat(1023) + (quote.isEmpty() ? "x" : "\n"))
                        .repeat(1024));
            }

            var problem = assertThrows(Unusable.class, () -> Index.of(Csv.open(path, Csv.Shape.DEFAULT), _ -> {}));

            assertEquals(Exit.UNUSABLE, problem.exit);
            assertTrue(problem.text().startsWith(path + ":3: ") && problem.text().contains("64 MiB"),
                    problem.text());
        }

        @ParameterizedTest
        @ValueSource(strings = {"", "\n", "  \n", "\uFEFF", "sep=;\n", ",,\n\n ,,\n"})
        void isRejectedAsEmptyIfItHasNoHeader(String text) {
            assertTrue(problem(text).startsWith("data.csv: empty"), problem(text));
        }

        @Test
        void theFirstProblemIsReportedWithTheNumberOfAll() {
            var message = problem("id,text\na,1\n,3\nb\na,4\n");

            assertTrue(message.startsWith("data.csv:3: ") && message.contains("3 problems"), message);
            assertTrue(message.contains("--id-column " + Text.shell("#")), message);
        }

        @Test
        void aMissingIdColumnIsReportedWithTheExistingColumns() {
            var problem = assertThrows(Unusable.class,
                    () -> Index.of(Csv.open(write("a,b\n1,2\n".getBytes(UTF_8)), shape("c", null, null)), _ -> {}));

            assertTrue(problem.text().contains("\"c\"") && problem.text().endsWith("a, b"), problem.text());
        }

        @ParameterizedTest
        @CsvSource({"none.csv, no such file", "'', is a folder"})
        void aMissingFileOrAFolderIsRejectedWithTheReason(String name, String what) {
            var path = folder.resolve(name);

            var problem = assertThrows(Unusable.class, () -> Csv.open(path, Csv.Shape.DEFAULT));

            assertTrue(problem.text().contains(path + ": " + what), problem.text());
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                header, first, second,  line
                text,   gut,   größer,  3
                text,   größer, gut,    2
                größe,  gut,   besser,  1
                """)
        void invalidUtf8IsReportedWithItsLine(String header, String first, String second, int line) {
            var text = "id,%s\na,%s\nb,%s\nc,x\n".formatted(header, first, second);

            var message = problem(text.getBytes(StandardCharsets.ISO_8859_1));

            assertTrue(message.startsWith("data.csv:" + line + ": invalid UTF-8"), message);
        }

        /// The encoding is guessed by the beginning of the file only.
        @Test
        void invalidUtf8AfterALongBeginningIsReportedWithItsLine() {
            var rows = IntStream.range(0, 200).mapToObj(row -> row + "," + "x".repeat(1_000) + "\n");
            var text = "id,text\n" + rows.collect(Collectors.joining()) + "last,größer\n";

            var message = problem(text.getBytes(StandardCharsets.ISO_8859_1));

            assertTrue(message.startsWith("data.csv:202: invalid UTF-8"), message);
        }

        /// Changed cells, ids and rows; truncated at the end of a row, within one, within a quoted cell, and to the
        /// header.
        @ParameterizedTest
        @ValueSource(strings = {"a,1/b/c,'3/33'/", "a,1/b,9/c,'3/33'/", "a,1/c,'3/33'/b,2/", "a,1/z,2/c,'3/33'/",
                "a,1/,2/c,'3/33'/", "new,0/a,1/b,2/c,'3/33'/", "a,1/b,2/", "a,1/b,2/c,'3", "a,1/b,2/c,'3/3", ""})
        void isRejectedInsteadOfMisreadIfItHasChangedSinceItsCheck(String changed) throws IOException {
            var csv = open("id,text\na,1\nb,2\nc,\"3\n33\"\n");
            var index = Index.of(csv, _ -> {});
            Files.writeString(csv.file().input(), "id,text\n" + changed.replace('/', '\n').replace('\'', '"'));

            var problem = assertThrows(Unusable.class,
                    () -> csv.rows(BitSet.valueOf(new long[] {0b111}), index::fingerprint).forEachRemaining(_ -> {}));

            assertTrue(problem.text().startsWith(csv.file().input() + ":"), problem.text());
        }

        @Test
        void isAcceptedIfItWasTruncatedAfterTheLastSelectedRow() throws IOException {
            var csv = open("id,text\na,1\nb,2\nc,3\n");
            var index = Index.of(csv, _ -> {});
            Files.writeString(folder.resolve("data.csv"), "id,text\na,1\nb,2\n");

            var rows = csv.rows(BitSet.valueOf(new long[] {2}), index::fingerprint);

            assertEquals("b", rows.next().id());
            assertFalse(rows.hasNext());
        }
    }

    /// Files saved by spreadsheet programs, accepted or reported with their format.
    @Nested
    class ASpreadsheetCsv extends FileOfRows {
        /// The rows, each with its line and cells: `2 {id=a, text=1}`.
        private List<String> rows(Csv csv) {
            return Given.rows(csv).stream().map(row -> row.line() + " " + row.inputs()).toList();
        }

        @ParameterizedTest
        @ValueSource(strings = {"sep=;\nid;text\na;x,y\n", "\uFEFFsep=|\r\nid|text\r\na|x,y\r\n",
                "\"SEP=;\"\n\"id\";\"text\"\na;\"x,y\"\n", "sep=,\nid,text\na,\"x,y\"\n",
                "sep=\t\nid\ttext\na\tx,y\n"})
        void isReadWithTheDelimiterOfItsSepLine(String text) throws IOException {
            var csv = open(text);

            assertEquals(List.of("3 {id=a, text=x,y}"), rows(csv));
            assertEquals(1, csv.notes().size());
        }

        @Test
        void isReadWithTheDelimiterOptionDespiteItsSepLine() throws IOException {
            var path = write("sep=;\nid|text\na|x;y\n".getBytes(UTF_8));

            assertEquals(List.of("3 {id=a, text=x;y}"), rows(Csv.open(path, shape(null, null, '|'))));
        }

        @Test
        void isReadWithoutItsEmptyUnnamedColumns() throws IOException {
            var csv = open(",id, ,text,,\n,a,,1,,\n,b,,2\n,c, ,3,\n");

            assertEquals(List.of("2 {id=a, text=1}", "3 {id=b, text=2}", "4 {id=c, text=3}"), rows(csv));
            assertTrue(csv.notes().getFirst().contains("column 1, column 3, column 5, column 6"));
        }

        @Test
        void isReadWithoutItsEmptyRowsAndLines() throws IOException {
            var csv = open(",\nid,text\n , \n\na,1\n\"\",\nb,2\n,\n,,,\n\n");

            assertEquals(List.of("5 {id=a, text=1}", "7 {id=b, text=2}"), rows(csv));
            assertEquals(List.of(), csv.notes());
        }

        /// Saved by LibreOffice 7.4; `tests/recorded/README.md` describes the contents.
        @Test
        void isReadAsSavedByLibreOffice() throws IOException {
            try (var saved = InputTest.class.getResourceAsStream("/recorded/sheets/utf-8.csv")) {
                assertEquals(List.of("2 {id=a, text=größer; 1,5}", "4 {id=b, text=日本語}"),
                        rows(open(saved.readAllBytes())));
            }
        }

        @ParameterizedTest
        @ValueSource(strings = {"1f8b0800", "89504e470d0a1a0a", "255044462d312e37", "ffd8ffe0", "504b0304",
                "3c68746d6c3e", "3c21444f43545950452068746d6c3e", "3c3f786d6c3f3e"})
        void aGzipPngPdfJpegZipHtmlOrXmlFileIsRejectedWithAHint(String start) {
            var message = problem(HexFormat.of().parseHex(start));

            assertTrue(message.matches("data.csv: .*\nhint: .*"), message);
        }
    }

    @Nested
    class TheCsvWriter {
        @ParameterizedTest
        @CsvSource(delimiter = '/', quoteCharacter = '`', useHeadersInDisplayName = true, textBlock = """
                cell         / written
                plain text   / plain text
                it's 5%      / it's 5%
                ``           / ``
                a,b          / "a,b"
                a;b          / "a;b"
                a\\tb        / "a\\tb"
                a|b          / "a|b"
                a "b" c      / "a ""b"" c"
                a\\nb        / "a\\nb"
                a\\r         / "a\\r"
                ` a`         / `" a"`
                `a\u3000`    / `"a\u3000"`
                """)
        void quotesCellsThatAReaderCouldSplitOrStrip(String cell, String written) throws IOException {
            var text = new StringWriter();
            try (var out = new CellWriter(text, '|')) {
                out.write(List.of(cell.translateEscapes()));
            }

            assertEquals(written.translateEscapes() + "\r\n", text.toString());
        }

        @ParameterizedTest
        @ValueSource(chars = {',', ';', '\t', '|'})
        void writesEveryCellSoThatItIsReadBackUnchanged(char delimiter, @TempDir Path folder) throws IOException {
            var cells = List.of("1", "", "\"", "a\"\"b", "\r\n", "one\n\ntwo\r", " a ", ",;\t|", "größer 日本語 😀",
                    "\0", "\\\"");
            var path = folder.resolve("data.csv");
            try (var out = new CellWriter(Files.newBufferedWriter(path), delimiter)) {
                out.write(IntStream.range(0, cells.size()).mapToObj(i -> i == 0 ? "id" : "c" + i).toList());
                out.write(cells);
            }

            assertEquals(List.of(cells), Given.rows(Csv.open(path, shape(null, null, delimiter))).stream()
                    .map(row -> List.copyOf(row.inputs().values())).toList());
        }

        @Test
        void failsAtOnceIfItCannotWrite() {
            var out = new CellWriter(new PipedWriter(), ','); // not connected

            assertThrows(IOException.class, () -> out.write(List.of("x".repeat(100_000))));
        }
    }

    @Nested
    class TheRowHash {
        private static String hash(String... namesAndCells) {
            var inputs = new LinkedHashMap<String, String>();
            for (int name = 0; name < namesAndCells.length; name += 2)
                inputs.put(namesAndCells[name], namesAndCells[name + 1]);
            return HexFormat.of().toHexDigits(Fingerprint.hash(inputs));
        }

        @Test
        void isSixteenHexDigitsAndTheSameInEveryVersion() {
            assertEquals("b27bfd5bbb9c6917", hash("id", "a", "text", "größer"));
            assertEquals("e3b0c44298fc1c14", hash());
            assertEquals(hash("id", "a"), "%016x".formatted(Fingerprint.hash(Map.of("id", "a"))));
        }

        @Test
        void changesWithAnyCellOrColumnName() {
            var all = List.of(hash("id", "a", "text", "x"), hash("id", "b", "text", "x"), hash("id", "a", "text", "y"),
                    hash("id", "a", "more", "x"), hash("id", "a"), hash("id", "a", "text", "x", "more", ""),
                    hash("id", "a", "text", "x "), hash("id", "a", "text", "X"), hash("id", "a", "text", ""),
                    hash("id", "atext", "x", ""), hash("id", "at", "ext", "x"), hash());

            assertEquals(all.size(), Set.copyOf(all).size());
        }

        @Test
        void isTheSameIfColumnsAreReordered() {
            assertEquals(hash("id", "a", "text", "x", "more", "y"), hash("id", "a", "more", "y", "text", "x"));
        }
    }

    @Nested
    class TheRowIndex {
        private final Index index = new Index();

        @Test
        void numbersRowsInInsertionOrder() {
            assertEquals(0, index.add("a", 2, 7));
            assertEquals(1, index.add("b", 3, 8));

            assertEquals(1, index.find("b"));
            assertEquals(-1, index.find("c"));
            assertEquals(0, index.findOrAdd("a"));
            assertEquals(2, index.findOrAdd("c"));
            assertEquals(0, index.line(2));
            assertEquals("b", index.id(1));
            assertEquals(3, index.line(1));
            assertEquals(8, index.fingerprint(1));
        }

        @Test
        void distinguishesIdsWithTheSameHash() {
            var ids = new ArrayList<>(List.of(""));
            for (int pair = 0; pair < 10; pair++) // "Aa" and "BB" have the same hash, and so do all chains of them
                ids.replaceAll(id -> id + "Aa");
            for (int pair = 0; pair < 10; pair++) {
                int at = pair * 2;
                ids.addAll(ids.stream().map(id -> id.substring(0, at) + "BB" + id.substring(at + 2)).toList());
            }
            assertEquals(1, ids.stream().map(id -> Arrays.hashCode(id.getBytes(UTF_8))).distinct().count());
            ids.forEach(id -> index.add(id, 1, 1));

            for (int entry = 0; entry < 1024; entry++) assertEquals(entry, index.find(ids.get(entry)));
            assertEquals(-1, index.find("Aa".repeat(9) + "Bb"));
        }

        @Test
        void keepsAllEntriesWhenItGrows() {
            var random = new Random(7);
            var ids = IntStream.range(0, 30_000).mapToObj(n -> n + "-" + "x".repeat(random.nextInt(120))).toList();
            ids.forEach(id -> index.setStatus(index.add(id, id.length(), id.hashCode()), RowStatus.FAILED));

            for (int entry = 0; entry < ids.size(); entry++) {
                assertEquals(entry, index.find(ids.get(entry)));
                assertEquals(ids.get(entry), index.id(entry));
                assertEquals(ids.get(entry).length(), index.line(entry));
                assertEquals(ids.get(entry).hashCode(), index.fingerprint(entry));
                assertEquals(RowStatus.FAILED, index.status(entry));
            }
            assertEquals(30_000, index.size());
            assertEquals(-1, index.find("30000-"));
        }

        @Test
        void returnsIdsOfAnyLengthAndScriptUnchanged() {
            var ids = List.of("ö", "日本語", "😀", "x".repeat(255), "x".repeat(256), "x".repeat(65_536),
                    "ß".repeat(600_000), "x".repeat(1 << 24), "x".repeat((1 << 24) + 1), "last");
            ids.forEach(id -> index.add(id, 1, 1));

            for (int entry = 0; entry < ids.size(); entry++) {
                assertEquals(ids.get(entry), index.id(entry));
                assertEquals(entry, index.find(ids.get(entry)));
            }
            assertEquals(-1, index.find("x".repeat(257)));
        }

        @Test
        void countsOnlyRowsOfTheCsv() {
            index.setStatus(index.add("a", 2, 1), RowStatus.SUCCEEDED);
            index.setStatus(index.add("b", 3, 1), RowStatus.PARTIAL);
            index.endOfRows(0);
            index.setStatus(index.findOrAdd("only in the results"), RowStatus.SUCCEEDED);

            assertEquals(2, index.rows());
            assertEquals(1, index.count(RowStatus.SUCCEEDED));
            assertTrue(index.isComplete());
            index.setStatus(0, RowStatus.FAILED);
            assertFalse(index.isComplete());
            assertEquals(0, index.count(RowStatus.SUCCEEDED));
            assertEquals(1, index.count(RowStatus.FAILED));
        }

        @Test
        void countsAllKnownIdsIfThereIsNoCsv() {
            index.findOrAdd("a");
            index.setStatus(index.findOrAdd("b"), RowStatus.PARTIAL);
            index.setStatus(index.findOrAdd("b"), RowStatus.SUCCEEDED);

            assertEquals(1, index.count(RowStatus.PENDING));
            assertEquals(1, index.succeeded());
            assertEquals(0, index.count(RowStatus.PARTIAL));
        }
    }
}

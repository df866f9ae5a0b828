package difyexec;

import com.sun.source.tree.*;
import com.sun.source.util.*;
import org.junit.jupiter.api.*;
import org.junit.jupiter.params.*;
import org.junit.jupiter.params.provider.*;

import javax.lang.model.element.*;
import javax.lang.model.type.*;
import javax.tools.*;

import module java.base;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.*;

/// Checks the laws and the limits of `DifyExec.java` on the compiler's trees. Class files would not do, because
/// the compiler inlines constants.
final class MapTest {

    /// `DifyExec.java` as the compiler sees it. Walks the tree once and collects everything that the laws need.
    static final class SourceMap extends TreePathScanner<Void, Void> {
        private static final Pattern COLLECTION = Pattern.compile(
                "^java\\.util\\.(?!Optional|function|regex|Locale|UUID|Iterator\\b)\\w+");

        /// A row of a table, or words in columns.
        private static final Pattern PICTURE = Pattern.compile("[│┌└├]|/// (\\|| *\\S.*\\S {3,}\\S)");

        private static final Set<Tree.Kind> LIMITS = EnumSet.of(Tree.Kind.LESS_THAN, Tree.Kind.LESS_THAN_EQUAL,
                Tree.Kind.GREATER_THAN, Tree.Kind.GREATER_THAN_EQUAL);

        /// @param lambdas    how deep lambdas are nested
        /// @param hasComment whether it has a doc or a comment inside
        record Method(String name, int parameters, int lines, int lambdas, boolean hasComment) {}

        final String text;
        /// The line that each section starts at, in the file's order.
        final Map<String, Integer> sections = new LinkedHashMap<>(Map.of("Head", 1));
        final List<Method> methods = new ArrayList<>();
        /// Sentences with the declarations or the line.
        final Set<String> upward = new TreeSet<>(), privateUses = new TreeSet<>();
        /// Fields that are not final, or hold a collection that can be changed, and who else uses them.
        final Set<String> openFields = new TreeSet<>();
        final List<String> catchAlls = new ArrayList<>();
        /// The methods with loops that syntax does not bound, each once for each loop.
        final List<String> loops = new ArrayList<>();
        final List<String> largeRecords = new ArrayList<>(), callsWithLiterals = new ArrayList<>();
        private final CompilationUnitTree unit;
        private final Trees trees;
        private final List<String> lines;
        private final List<String> order;
        /// The section of each declaration directly inside the outermost class; empty: not in this file.
        private final Map<Element, String> sectionOf = new HashMap<>();
        /// The declarations that enclose the current place: the outermost class, its member, the innermost type.
        private final Deque<TypeElement> enclosing = new ArrayDeque<>();
        private Element member;

        SourceMap(String text) throws IOException {
            this.text = text;
            lines = text.lines().toList();
            var rule = Pattern.compile("    // ── (\\S.*?) ─+");
            for (int line = 0; line < lines.size(); line++) {
                var match = rule.matcher(lines.get(line));
                if (match.matches()) sections.put(match.group(1), line + 1);
            }
            order = List.copyOf(sections.keySet());
            var task = compiler(text, "-classpath", System.getProperty("java.class.path"));
            unit = task.parse().iterator().next();
            task.analyze();
            trees = Trees.instance(task);
            scan(unit, null);
        }

        boolean isComment(int line) {
            return lines.get(line - 1).strip().startsWith("//");
        }

        /// Whether a line is a comment of words: not a directive of JBang, a rule, a table or a picture, nor one of the
        /// page's script.
        boolean isProse(int line) {
            return isComment(line) && line > sections.get("Commands") && line < sections.get("Page")
                    && !lines.get(line - 1).contains("──") && !PICTURE.matcher(lines.get(line - 1)).find();
        }

        List<Integer> linesLongerThan(int columns) {
            return IntStream.rangeClosed(1, lines.size()).filter(line -> lines.get(line - 1).length() > columns)
                    .boxed().toList();
        }

        /// Every tree passes here before it is visited.
        @Override
        public Void scan(Tree tree, Void nothing) {
            switch (tree) {
                case IdentifierTree _, MemberSelectTree _, MemberReferenceTree _, NewClassTree _ -> use(tree);
                case SwitchTree choice -> cases(choice, choice.getExpression(), choice.getCases());
                case SwitchExpressionTree choice -> cases(choice, choice.getExpression(), choice.getCases());
                case WhileLoopTree _, DoWhileLoopTree _ -> loops.add(method());
                case ForLoopTree loop when !isCounted(loop) -> loops.add(method());
                case MethodInvocationTree call when isEndless(call) -> loops.add(method());
                case null, default -> {}
            }
            switch (tree) {
                case MethodInvocationTree call -> literals(call, call.getArguments());
                case NewClassTree call -> literals(call, call.getArguments());
                case null, default -> {}
            }
            return super.scan(tree, nothing);
        }

        /// Notes a call with more than two arguments that mean nothing without the declaration.
        private void literals(Tree call, List<? extends ExpressionTree> arguments) {
            if (arguments.stream().filter(SourceMap::isBare).count() > 2)
                callsWithLiterals.add("line " + line(start(call)) + ": " + method());
        }

        private static boolean isBare(ExpressionTree argument) {
            return switch (argument) {
                case LiteralTree literal -> !(literal.getValue() instanceof String text) || text.isEmpty();
                case UnaryTree sign -> isBare(sign.getExpression());
                case MethodInvocationTree call -> call.toString().matches("Optional(Long|Int|Double)?\\.empty\\(\\)");
                default -> false;
            };
        }

        /// Returns whether a variable of the loop counts up or down to something.
        private static boolean isCounted(ForLoopTree loop) {
            var names = loop.getInitializer().stream().filter(VariableTree.class::isInstance)
                    .map(made -> ((VariableTree) made).getName().toString()).toList();
            var counted = loop.getUpdate().stream().map(update -> update.getExpression().toString())
                    .flatMap(text -> names.stream().filter(name -> text.matches("(\\+\\+|--)?" + name
                            + "(\\+\\+|--| [-+*]= .+)?"))).toList();
            return compared(loop.getCondition()).anyMatch(counted::contains);
        }

        /// Returns the variables that a condition, or one of its parts that must all hold, compares with a limit.
        private static Stream<String> compared(ExpressionTree condition) {
            return switch (condition) {
                case BinaryTree all when all.getKind() == Tree.Kind.CONDITIONAL_AND ->
                        Stream.concat(compared(all.getLeftOperand()), compared(all.getRightOperand()));
                case BinaryTree one when LIMITS.contains(one.getKind()) -> Stream.of(one.getLeftOperand().toString());
                case null, default -> Stream.of();
            };
        }

        /// Returns whether a call makes a stream that goes on until something ends it, or is that of its own method.
        private boolean isEndless(MethodInvocationTree call) {
            var name = call.getMethodSelect().toString();
            if (name.equals("Stream.iterate") || name.equals("Stream.generate")) return true;
            var called = trees.getElement(new TreePath(getCurrentPath(), call));
            return called != null && called.equals(enclosingMethod());
        }

        /// Returns the method around the current place, not that of an anonymous type in it; null in a field.
        private Element enclosingMethod() {
            for (var at = getCurrentPath(); at != null; at = at.getParentPath()) {
                boolean isIn = at.getLeaf() instanceof MethodTree
                        && !((ClassTree) at.getParentPath().getLeaf()).getSimpleName().isEmpty();
                if (isIn) return trees.getElement(at);
            }
            return null;
        }

        private String method() {
            var method = enclosingMethod();
            return method == null ? name(enclosing.peek()) : name(method.getEnclosingElement()) + "."
                    + method.getSimpleName();
        }

        @Override
        public Void visitClass(ClassTree tree, Void nothing) {
            var element = (TypeElement) trees.getElement(getCurrentPath());
            if (tree.getSimpleName().isEmpty()) return super.visitClass(tree, nothing); // anonymous: part of its method
            if (element.getRecordComponents().size() > 8)
                largeRecords.add(name(element) + ": " + element.getRecordComponents().size());
            enclosing.push(element);
            if (enclosing.size() > 1) super.visitClass(tree, nothing);
            else for (var part : tree.getMembers()) {
                member = trees.getElement(new TreePath(getCurrentPath(), part));
                scan(part, nothing);
            }
            enclosing.pop();
            return null;
        }

        @Override
        public Void visitMethod(MethodTree tree, Void nothing) {
            var element = trees.getElement(getCurrentPath());
            boolean isWritten = trees.getSourcePositions().getEndPosition(unit, tree) > start(tree)
                    && !(tree.getName().contentEquals("<init>") && isGenerated(element));
            if (isWritten) {
                int first = line(start(tree)), last = line(trees.getSourcePositions().getEndPosition(unit, tree));
                var depth = new LambdaDepth();
                depth.scan(tree.getBody(), null);
                methods.add(new Method(name(element.getEnclosingElement()) + "." + tree.getName(),
                        tree.getParameters().size(), last - first + 1, depth.deepest, hasComment(first, last)));
            }
            return super.visitMethod(tree, nothing);
        }

        private boolean hasComment(int first, int last) {
            return lines.get(first - 2).strip().startsWith("///")
                    || lines.subList(first - 1, last).stream().anyMatch(text -> text.matches(".*(^|\\s)//.*"));
        }

        /// Finds how deep the lambdas of a method are nested.
        private static final class LambdaDepth extends TreeScanner<Void, Void> {
            int deepest = 0;
            private int depth = 0;

            @Override
            public Void visitLambdaExpression(LambdaExpressionTree tree, Void nothing) {
                deepest = Math.max(deepest, ++depth);
                super.visitLambdaExpression(tree, nothing);
                depth--;
                return null;
            }
        }

        /// Returns whether the compiler added this constructor. That of a record has the position of its type.
        private boolean isGenerated(Element element) {
            var tree = trees.getTree(element.getEnclosingElement());
            return tree != null && start(tree) == start(trees.getTree(element));
        }

        private void cases(Tree choice, ExpressionTree selector, List<? extends CaseTree> cases) {
            var path = new TreePath(getCurrentPath(), choice);
            var type = trees.getTypeMirror(new TreePath(path, selector));
            if (!isOurSealed(type)) return;
            for (var one : cases) for (var label : one.getLabels()) {
                boolean isAny = label instanceof DefaultCaseLabelTree || one.getGuard() == null
                        && label instanceof PatternCaseLabelTree pattern
                        && pattern.getPattern() instanceof BindingPatternTree binding
                        && isOurSealed(trees.getElement(new TreePath(path, binding.getVariable())).asType());
                if (isAny) catchAlls.add("line " + line(start(one)) + ": " + type);
            }
        }

        private boolean isOurSealed(TypeMirror type) {
            return type instanceof DeclaredType declared && declared.asElement() instanceof TypeElement element
                    && element.getModifiers().contains(Modifier.SEALED) && topMember(element).isPresent();
        }

        private void use(Tree tree) {
            if (enclosing.isEmpty() || member == null || start(tree) < 0) return;
            var used = trees.getElement(new TreePath(getCurrentPath(), tree));
            var target = used == null ? Optional.<Element>empty() : topMember(used);
            if (target.isEmpty() || sectionOf(target.get()).isEmpty()) return;
            var from = sectionOf(member);
            var to = sectionOf(target.get());
            if (order.indexOf(from) > order.indexOf(to)) upward.add(from + ", " + member.getSimpleName() + " → " + to
                    + ", " + target.get().getSimpleName());
            var owner = used.getEnclosingElement();
            boolean isPrivate = used.getModifiers().contains(Modifier.PRIVATE) && !(used instanceof TypeElement)
                    && !owner.getSimpleName().isEmpty() // an anonymous type is part of its method
                    && !(isConstructor(used) && owner.getModifiers().contains(Modifier.PRIVATE));
            if (isOpen(used) && !topMember(used).equals(topMember(enclosing.peek())))
                openFields.add(name(owner) + "." + used.getSimpleName() + " used by " + name(enclosing.peek()));
            if (isPrivate && !enclosing.contains(owner)) privateUses.add(name(owner) + "."
                    + used.getSimpleName() + " used by " + name(enclosing.peek()));
        }

        /// Returns whether a field can be changed: it is not final, or holds a collection that is not a record's.
        /// Options do not count, because picocli sets them.
        private static boolean isOpen(Element used) {
            if (used.getKind() != ElementKind.FIELD || used.getModifiers().contains(Modifier.STATIC)) return false;
            if (used.getEnclosingElement().getKind() == ElementKind.RECORD) return false;
            boolean isOption = used.getAnnotationMirrors().stream()
                    .anyMatch(mark -> mark.getAnnotationType().toString().startsWith("picocli."));
            if (isOption) return false;
            return !used.getModifiers().contains(Modifier.FINAL) || COLLECTION.matcher(used.asType().toString()).find();
        }

        private static boolean isConstructor(Element element) {
            return element.getSimpleName().contentEquals("<init>");
        }

        /// Returns the declaration directly inside the outermost class that an element belongs to.
        private static Optional<Element> topMember(Element element) {
            for (var at = element; at != null; at = at.getEnclosingElement())
                if (at.getEnclosingElement() instanceof TypeElement outer
                        && outer.getQualifiedName().contentEquals("difyexec.DifyExec")) return Optional.of(at);
            return Optional.empty();
        }

        private static String name(Element element) {
            return element.toString().replaceFirst("^difyexec\\.(DifyExec\\.)?", "");
        }

        private String sectionOf(Element element) {
            return sectionOf.computeIfAbsent(element, key ->
                    Optional.ofNullable(trees.getTree(key)).map(this::section).orElse(""));
        }

        private String section(Tree tree) {
            int line = line(start(tree));
            return order.reversed().stream().filter(name -> sections.get(name) <= line).findFirst().orElseThrow();
        }

        private long start(Tree tree) {
            return trees.getSourcePositions().getStartPosition(unit, tree);
        }

        private int line(long position) {
            return (int) unit.getLineMap().getLineNumber(position);
        }
    }

    static JavacTask compiler(String source, String... options) {
        var file = new SimpleJavaFileObject(URI.create("string:///DifyExec.java"), JavaFileObject.Kind.SOURCE) {
            @Override
            public CharSequence getCharContent(boolean ignoreEncodingErrors) {
                return source;
            }
        };
        return (JavacTask) ToolProvider.getSystemJavaCompiler().getTask(Writer.nullWriter(), null, _ -> {},
                List.of(WholeCommand.words(List.of("-proc:none"), options)), null, List.of(file));
    }

    private static SourceMap own;

    /// `DifyExec.java`, which takes seconds to analyze.
    static synchronized SourceMap own() throws IOException {
        if (own == null) own = new SourceMap(source());
        return own;
    }

    static String source() throws IOException {
        try (var packed = MapTest.class.getResourceAsStream("/DifyExec.java")) {
            return packed != null ? new String(packed.readAllBytes(), UTF_8)
                    : Files.readString(Stream.of("DifyExec.java", "../DifyExec.java").map(Path::of)
                            .filter(Files::isRegularFile).findFirst().orElseThrow());
        }
    }

    /// @param places where the law is broken
    record Law(String name, int most, List<String> places) {
        static Law of(String name, int most, Collection<?> places) {
            return new Law(name, most, places.stream().map(Object::toString).toList());
        }

        static Law ofMethods(String name, int most, SourceMap map, Predicate<SourceMap.Method> breaksIt) {
            return of(name, most, map.methods.stream().filter(breaksIt).toList());
        }

        @Override
        public String toString() {
            return name;
        }
    }

    private static List<Law> laws(SourceMap map) {
        return List.of(Law.of("references that point up", 0, map.upward),
                Law.of("catch-alls over our sealed types", 0, map.catchAlls),
                Law.of("private members used by another type", 0, map.privateUses),
                Law.of("fields that can change, used by another type", 0, map.openFields),
                Law.ofMethods("methods with lambdas nested three deep", 1, map, method -> method.lambdas() > 2),
                Law.ofMethods("methods of 15 lines or more without any comment", 10, map,
                        method -> method.lines() >= 15 && !method.hasComment()),
                Law.of("records with more than eight parts", 0, map.largeRecords),
                Law.of("calls with more than two bare arguments", 6, map.callsWithLiterals), // 5 from the next release on
                Law.ofMethods("methods with more than four parameters", 6, map, method -> method.parameters() > 4),
                Law.ofMethods("methods longer than 60 lines", 0, map, method -> method.lines() > 60),
                Law.of("lines over 120 columns", 0, map.linesLongerThan(120)),
                Law.of("lines of prose over 100 columns", 0, map.linesLongerThan(100).stream()
                        .filter(map::isProse).toList()));
    }

    // ── Loops ───────────────────────────────────────────────────────────────────────────────────────────────────────

    /// What ends each loop that is neither over a collection nor counts to a limit. Recursion counts as a loop, and so
    /// does a stream that goes on until something ends it. A number in brackets: so many loops of one method.
    ///
    /// A bound is a setting, the size of the input, or progress.
    private static final String BOUNDS = """
            Agenda.next                     | the rows of the CSV
            Batch.sample                    | the rows of the CSV
            BatchFiles.writeRetryList       | the rows of the CSV
            WorkbookReader.<init>           | the texts that the cells of the workbook share
            WorkbookReader.SheetRows.copyAsCsv (2) | the rows of the worksheet; the cells of a row
            WorkbookReader.SheetRows.endCell | MAX_COLUMNS
            WorkbookReader.SheetRows.next   | the elements of a part of the workbook
            WorkbookReader.part             | the parts of the zip file
            WorkbookReader.relatedPart      | the relations of the workbook
            CommandLines.onException        | the causes of an exception, of which Java makes no ring
            CommandLines.unmatched          | the depth of the commands
            Connection.ask                  | 30 s, and MAX_RETRIES times at most ten minutes of pause and 30 s
            Csv.Header.likelyDelimiter      | calls another method of this name, for one line
            Csv.Header.of                   | the records of the file up to --header-row
            Csv.Header.records              | the records of the file up to the column names
            Csv.Header.skipTitle            | 20 records
            Csv.Records.next (2)            | the characters of the file: each pass takes some
            BatchFiles.isCopy               | the lines of the results
            TextFile.hasLettersOfUtf8       | the characters of the file
            TextFile.lineOfSwitch           | the bytes of the file
            Csv.Records.takeQuoted          | the characters of the file, and those of a cell
            Csv.Records.takeTo (2)          | the characters of the file, and those of a cell
            Csv.Rows.next                   | the records of the file
            Csv.rows                        | the records of the file
            Csv.survey                      | the records of the file
            Csv.unique                      | MAX_SEARCHED_ROWS
            Csv.write                       | the records of the file
            DifyClient.ends                 | 100 ms, after which the response is closed
            DifyExec.commandLine            | calls itself later, with the words of a suggested command
            DifyClient.json                 | calls itself once, with a file that has an id
            DifyClient.stream               | the time limit of the response, which closes it: TIMEOUT, or 20 minutes more
            Engine.run (2)                  | a stop, or the outcome of each row: by MAX_RETRIES, TIMEOUT and --settle; \
            the messages that wait
            Engine.startDue (2)             | the free slots
            Engine.watchDisk                | the session's end, which interrupts it
            History.noteStart               | the streams that were sent and have not started
            History.remove                  | the attempts of a row
            Index.slot                      | the table, which always has free slots
            Json.hasText                    | the depth of the JSON, which the parser limits
            JsonDiff.Change.countCommonWords | the words of a text
            JsonDiff.differences (2)        | the depth of the JSON, which the parser limits
            LineFile.lastLine (3)           | the size of the file, which the block reaches by doubling
            LineOffsets.offsetsOf           | the lines of a row
            Lines.fill (2)                  | the size of the file
            Lines.find (2)                  | the bytes of the page
            Lines.scan                      | the lines of the file
            LongList.set                    | the place that is set
            LongTable.slot                  | the table, which always has free slots
            Platform.remedy                 | the causes of an exception, of which Java makes no ring
            Platform.retryWhileInUse               | the patience of the caller, at most 10 s
            Progress.line                   | the items of the line
            NextCall.suggestAfterSuccess    | the files in the folder: one of the numbers is free
            ResultLine.read                 | the fields of the line
            Sender.FileSaver.moveToFreeName | the files in the folder: one of the numbers is free
            Shell.Dialogue.converse         | the user: exit, or the end of the input
            Shell.Dialogue.execute          | the lines that were pasted
            Shell.command                   | the lines of the input
            Shell.script                    | the lines of the input
            ShellSession.commandLine        | calls itself later, with the words of a suggested command
            Spreadsheet.export (2)          | the columns of the CSV; its rows
            Temporary.of                    | 5 tries, without a wait
            Text.reason (2)                 | the causes of an exception, of which Java makes no ring
            TextFile.pathsOfRows            | the depth of the JSON, which the parser limits
            TextFile.read                   | the text of the file
            Transport.Exchange.event        | the events of the response, closed at its time limit (see DifyClient.stream)
            Transport.event                 | the lines of the response, closed at its time limit (see DifyClient.stream)
            Transport.notSent               | the causes of an exception, of which Java makes no ring
            Value.uploaded                  | calls itself for the files of a list, which are not lists
            Verification.ask                | 32 minutes: 4 tries of at most 30 s, with pauses of at most ten minutes
            """;

    /// @param loops how many the method has
    private record Bound(String method, int loops, String words) {
        static final Pattern LINE = Pattern.compile("(\\S+)(?: \\((\\d+)\\))? +\\| (.+)");

        static Bound of(String line) {
            var match = LINE.matcher(line);
            assertTrue(match.matches(), line);
            return new Bound(match.group(1), match.group(2) == null ? 1 : Integer.parseInt(match.group(2)),
                    match.group(3));
        }
    }

    @Nested
    class EveryLoop {
        private static SourceMap map;
        private static Map<String, Bound> bounds;

        @BeforeAll
        static void read() throws IOException {
            map = own();
            bounds = BOUNDS.lines().map(Bound::of).collect(Collectors.toMap(Bound::method, Function.identity()));
        }

        /// A new loop that is not over a collection and does not count to a limit needs a line above: what ends it?
        @Test
        void hasABoundInTheTable() {
            var unlisted = new TreeMap<String, Integer>();
            map.loops.forEach(method -> unlisted.merge(method, 1, Integer::sum));
            unlisted.entrySet().removeIf(found -> bounds.containsKey(found.getKey())
                    && bounds.get(found.getKey()).loops() == found.getValue());

            assertEquals(Map.of(), unlisted, "loops whose bound is not in the table, and how many the method has");
        }

        @Test
        void isInTheTableOnlyIfItIsInTheSource() {
            var missing = new TreeSet<>(bounds.keySet());
            missing.removeAll(map.loops);

            assertEquals(Set.of(), missing, "methods of the table without such a loop");
        }

        @Test
        void isFoundWhateverItsForm() throws IOException {
            var forms = new SourceMap("""
                    package difyexec;
                    import java.util.stream.Stream;
                    class DifyExec {
                        void whole() { while (true) {} }
                        void empty() { for (;;) {} }
                        void twice(boolean is) { do {} while (is); do {} while (is); }
                        void reading(java.io.Reader in) throws Exception {
                            for (int c = in.read(); c >= 0; c = in.read()) {}
                        }
                        void pages(boolean hasMore) { for (int page = 1; hasMore && page() < 9; page++) {} }
                        int page() { return page(); }
                        Object stream() { return Stream.generate(() -> 1); }
                        void counted(int[] all, boolean is) {
                            for (int i = 0; is && i < all.length; i++) {}
                            for (int i = 9; i >= 0; i -= 2) {}
                            for (var each : all) {}
                        }
                    }
                    """);

            assertEquals(List.of("DifyExec.empty", "DifyExec.page", "DifyExec.pages", "DifyExec.reading",
                    "DifyExec.stream", "DifyExec.twice", "DifyExec.twice", "DifyExec.whole"),
                    forms.loops.stream().sorted().toList());
        }
    }

    @Nested
    class TheMap {
        private static SourceMap map;

        @BeforeAll
        static void read() throws IOException {
            map = own();
        }

        @Test
        void findsTheMethodsOfTheSource() {
            assertTrue(map.methods.size() > 500, map.methods.size() + " methods");
        }

        static List<Law> laws() {
            return MapTest.laws(map);
        }

        @ParameterizedTest(name = "{0}")
        @MethodSource("laws")
        void findsNoMoreViolationsOfALawThanAllowed(Law law) {
            assertTrue(law.places().size() <= law.most(), law.places()::toString);
        }
    }
}
